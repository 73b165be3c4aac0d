"""Pieces of text put together are the text, and no piece holds half a character."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from qvl_core.specs import load_spec
from qvl_data.chat import ChatTokenizer
from qvl_data.processor import load_processor
from qvl_eval.answers.text_stream import TextStream

CHECKPOINT = Path(__file__).resolve().parents[4] / "recipes" / "tiny" / "checkpoint"
TEXTS = ("plain text", "naïve café", "你好，世界", "👩‍👧 and 🇨🇳", "\ufffd\ufffd real ones", " leading\n\n\tand  more ")


@pytest.fixture(scope="module")
def chat() -> ChatTokenizer:
    return load_processor(CHECKPOINT, load_spec(CHECKPOINT), min_pixels=784, max_pixels=784).chat


def letters(ids: Sequence[int]) -> str:
    return "".join(chr(index) for index in ids)


def pieces(stream: TextStream, ids: Sequence[int]) -> list[str]:
    return [*(stream.push(int(index)) for index in ids), stream.finish()]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_characters_and_add_up(chat: ChatTokenizer, text: str) -> None:
    ids = chat._encoder.encode(text, add_special_tokens=False).ids
    found = pieces(TextStream(chat.decode), ids)
    assert "".join(found) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in found)
    assert len([piece for piece in found if piece]) > 1


def test_any_tokens_add_up_to_what_decoding_them_at_once_gives(chat: ChatTokenizer) -> None:
    generator = np.random.default_rng(0)
    for _ in range(300):
        ids = generator.integers(0, 512, generator.integers(1, 40)).tolist()
        assert "".join(pieces(TextStream(chat.decode), ids)) == chat.decode(ids)


def test_bytes_that_become_no_character_are_not_decoded_again_and_again(chat: ChatTokenizer) -> None:
    sizes: list[int] = []

    def decode(ids: Sequence[int]) -> str:
        sizes.append(len(ids))
        return chat.decode(ids)

    # 0x80, which goes on with nothing, and 0xE4, the beginning of a character of three bytes that never comes, as
    # byte-level vocabularies spell them.
    for spelled in ("Ģ", "ä"):
        token = chat._encoder.token_to_id(spelled)
        assert chat.decode([token]) == "\ufffd"
        ids = [token] * 400
        stream = TextStream(decode)
        sizes.clear()
        found = pieces(stream, ids)
        assert "".join(found) == chat.decode(ids)
        assert max(sizes) < 32
        assert len("".join(found[:200])) > 150


def test_mixed_bytes_add_up(chat: ChatTokenizer) -> None:
    generator = np.random.default_rng(1)
    broken = [index for index in range(512) if chat.decode([index]) == "\ufffd"]
    assert len(broken) > 50
    for _ in range(100):
        ids = [int(generator.choice(broken)) for _ in range(60)]
        assert "".join(pieces(TextStream(chat.decode), ids)) == chat.decode(ids)


def test_a_cut_character_comes_at_the_end(chat: ChatTokenizer) -> None:
    ids = chat._encoder.encode("a你", add_special_tokens=False).ids[:-1]
    assert "".join(pieces(TextStream(chat.decode), ids)) == chat.decode(ids)


@pytest.mark.parametrize(
    ("text", "stops", "expected", "stopped"),
    [
        ("one STOP two", ("STOP",), "one ", True),
        ("one STO", ("STOP",), "one STO", False),
        ("aab", ("ab",), "a", True),
        ("xabcabe", ("abe",), "xabc", True),
        ("a\nb", ("\n", "b"), "a", True),
        ("abc", ("bc", "abc"), "", True),
        ("abc", ("d",), "abc", False),
    ],
)
def test_stop_strings_end_the_text_before_them(text: str, stops: tuple[str, ...], expected: str, stopped: bool) -> None:
    stream = TextStream(letters, stops)
    assert "".join(pieces(stream, [ord(char) for char in text])) == expected
    assert stream.is_stopped is stopped
    assert stream.push(ord("y")) == ("" if stopped else "y")


def test_nothing_of_a_stop_string_is_shown_before_it_is_certain() -> None:
    stream = TextStream(letters, ("STOP",))
    assert [stream.push(ord(char)) for char in "aSTaSTOP"] == ["a", "", "", "STa", "", "", "", ""]
