"""Token ids to pieces of text that can be read: what each token says, whether it is learned, where it sits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from qvl_core.batch import IGNORE
from qvl_core.errors import WeightsError
from qvl_core.json_file import read_json_object
from qvl_core.specs.model_spec import TokenIds

from qvl_data.chat import ChatTokenizer

PieceKind = Literal["text", "special", "image", "video"]
# A character of UTF-8 has at most 4 bytes, each of which may be a token of its own.
_LONGEST_CHARACTER = 4
_BROKEN = "\ufffd"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Tokens [first, first + count) of a sample: one of text, several that make one character, or those of a medium.

    `positions` are those of the first token (time, height, width), `last` those of the last. `medium` counts the
    images and videos of the sample from 0.
    """

    kind: PieceKind
    text: str
    first: int
    ids: tuple[int, ...]
    count: int
    is_learned: bool
    positions: tuple[int, int, int]
    last: tuple[int, int, int]
    medium: int = -1


class PieceReader:
    """Reads the tokens of one checkpoint's tokenizer."""

    def __init__(self, chat: ChatTokenizer, folder: Path, tokens: TokenIds) -> None:
        self._chat = chat
        self._tokens = tokens
        self._special = special_names(folder)

    def pieces(
        self,
        input_ids: NDArray[np.int32],
        labels: NDArray[np.int32],
        positions: NDArray[np.int32],
        media_tokens: list[int],
    ) -> tuple[Piece, ...]:
        """Give the pieces of a sample: ids and labels int32 [T], positions int32 [3, T], tokens of each medium."""
        return tuple(self._pieces(input_ids.tolist(), labels != IGNORE, positions, media_tokens))

    def _pieces(
        self,
        ids: list[int],
        learned: NDArray[np.bool_],
        positions: NDArray[np.int32],
        media_tokens: list[int],
    ) -> Iterator[Piece]:
        at, medium = 0, 0
        kinds: dict[int, PieceKind] = {self._tokens.image: "image", self._tokens.video: "video"}
        while at < len(ids):
            kind = kinds.get(ids[at])
            number = -1
            if kind is not None:
                count, text, number = media_tokens[medium], "", medium
                medium += 1
            elif ids[at] in self._special:
                kind, count, text = "special", 1, self._special[ids[at]]
            else:
                kind, (count, text) = "text", self._text(ids, learned, at)
            yield Piece(
                kind=kind,
                text=text,
                first=at,
                ids=tuple(ids[at : at + (1 if number >= 0 else count)]),
                count=count,
                is_learned=bool(learned[at]),
                positions=_triple(positions[:, at]),
                last=_triple(positions[:, at + count - 1]),
                medium=number,
            )
            at += count

    def _text(self, ids: list[int], learned: NDArray[np.bool_], at: int) -> tuple[int, str]:
        """Read one token, or as many as it takes to complete a character that was cut into bytes."""
        first = text = self._chat.decode(ids[at : at + 1])
        count = 1
        while _BROKEN in text and count < _LONGEST_CHARACTER:
            after = at + count
            if after >= len(ids) or ids[after] in self._special or learned[after] != learned[at]:
                break
            count += 1
            text = self._chat.decode(ids[at : at + count])
        return (count, text) if _BROKEN not in text else (1, first)


def special_names(folder: Path) -> Mapping[int, str]:
    """Give the special tokens of a checkpoint folder by id. Raises WeightsError if its tokenizer cannot be read."""
    found: dict[int, str] = {}
    settings = folder / "tokenizer_config.json"
    if settings.is_file():
        listed = read_json_object(settings, error_type=WeightsError).get("added_tokens_decoder")
        entries = listed.items() if isinstance(listed, dict) else ()
        found |= {int(index): str(entry["content"]) for index, entry in entries if _is_special(entry)}
    added = read_json_object(folder / "tokenizer.json", error_type=WeightsError).get("added_tokens")
    entries_of_file = added if isinstance(added, list) else []
    return found | {int(entry["id"]): str(entry["content"]) for entry in entries_of_file if _is_special(entry)}


def _is_special(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.get("special") is True and "content" in entry


def _triple(column: NDArray[np.int32]) -> tuple[int, int, int]:
    time, height, width = column.tolist()
    return time, height, width
