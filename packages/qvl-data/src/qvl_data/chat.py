"""Conversations to token ids through the checkpoint's own chat template, with the answers marked.

The template is rendered once per *shape* of conversation (roles, and where text and images stand) with a placeholder
for each text. What comes out is cut at the special tokens that the template wrote. Special tokens therefore come from
the template only: the same characters inside a user's text are ordinary text. And it is known, without searching,
which characters are an answer. `encode(verify=True)` renders the real conversation too and demands the same text.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from qvl_core.batch import IGNORE
from qvl_core.specs.model_spec import TokenIds

from qvl_data.records.record import MediaKind, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LossOn = Literal["answers", "last_answer", "all"]
# Private-use characters; no template holds them, and users' texts are not in the text that is searched for them.
_SLOT = re.compile("\ue000(\\d+)\\.(\\d+)\ue001")
# Shapes of conversations that are remembered. A data set has few; a server's clients could make up any number.
_REMEMBERED = 1000


class ChatError(ValueError):
    """A conversation or template that cannot be turned into tokens. Callers add the record or the folder."""


@dataclass(frozen=True)
class _Slot:
    """The place of text number `text` of turn number `turn`."""

    turn: int
    text: int


@dataclass(frozen=True, kw_only=True)
class _Fixed:
    """Token ids that every conversation of this shape has. `answer` is the turn whose answer they end, else -1."""

    ids: tuple[int, ...]
    text: str
    answer: int = -1


@dataclass(frozen=True, kw_only=True)
class _Run:
    """Text between two special tokens with slots in it; `answer` is the turn whose answer it holds, else -1."""

    parts: tuple[str | _Slot, ...]
    answer: int = -1


_Shape = tuple[tuple[str, tuple[bool, ...], tuple[MediaKind, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class EncodedChat:
    """Token ids and unshifted labels (IGNORE where nothing is learned), int32 [T]."""

    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]


class ChatTokenizer:
    """The tokenizer and chat template of a checkpoint. Safe to use from several threads.

    Raises ChatError if the template does not place images, changes texts, or does not end answers with a special
    token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str, tokens: TokenIds) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._tokens = tokens
        # A copy, because the switch below belongs to the object: special tokens in what it reads are plain text.
        self._encoder = copy.deepcopy(tokenizer.backend_tokenizer)
        self._encoder.encode_special_tokens = True
        self._special = {
            str(token.content): index for index, token in tokenizer.added_tokens_decoder.items() if token.special
        }
        longest_first = sorted(self._special, key=len, reverse=True)
        self._cut = re.compile("(" + "|".join(re.escape(text) for text in longest_first) + ")")
        self._skeletons: dict[tuple[_Shape, bool], tuple[_Fixed | _Run, ...]] = {}
        self._check_template()

    def encode(
        self, turns: Sequence[Turn], media_tokens: Sequence[int], *, loss_on: LossOn = "answers", verify: bool = False
    ) -> EncodedChat:
        """Give the tokens of a whole conversation; medium i, image or video, fills media_tokens[i] tokens.

        Learned are the answers with their end tokens: of every answer, of the last, or (`all`) every token but those of
        media. A token that starts before an answer and ends inside it counts as the answer's.
        """
        return self._encode(turns, media_tokens, loss_on=loss_on, verify=verify, opens_answer=False)

    def encode_prompt(self, turns: Sequence[Turn], media_tokens: Sequence[int]) -> NDArray[np.int32]:
        """Give the tokens of a conversation that ends with the user, and the answer's header after it, int32 [T]."""
        return self._encode(turns, media_tokens, loss_on="answers", verify=True, opens_answer=True).input_ids

    def decode(self, ids: Sequence[int] | NDArray[np.integer]) -> str:
        """Give the text of token ids, without special tokens."""
        return str(self._tokenizer.decode([int(index) for index in ids], skip_special_tokens=True))

    def count(self, turns: Sequence[Turn], *, verify: bool = True) -> int:
        """Count the tokens of a conversation without those of its media."""
        media = sum(len(turn.media) for turn in turns)
        return len(self.encode(turns, [0] * media, verify=verify).input_ids)

    def _encode(
        self, turns: Sequence[Turn], media_tokens: Sequence[int], *, loss_on: LossOn, verify: bool, opens_answer: bool
    ) -> EncodedChat:
        skeleton = self._skeleton(turns, opens_answer)
        last_answer = max((number for number, turn in enumerate(turns) if turn.role == "assistant"), default=-1)
        counts = iter(media_tokens)
        ids: list[int] = []
        learned: list[bool] = []
        rendered: list[str] = []
        for chunk in skeleton:
            is_learned = chunk.answer >= 0 and (loss_on != "last_answer" or chunk.answer == last_answer)
            if isinstance(chunk, _Run):
                part_ids, part_learned, text = self._encode_run(chunk, turns, is_learned)
                ids += part_ids
                learned += part_learned
                rendered.append(text)
                continue
            rendered.append(chunk.text)
            new_ids = chunk.ids * next(counts) if self._kind(chunk) else chunk.ids
            ids += new_ids
            learned += [is_learned] * len(new_ids)
        if verify:
            self._verify("".join(rendered), turns, opens_answer)
        input_ids = np.array(ids, np.int32)
        is_kept = np.array(learned, bool) if loss_on != "all" else self._is_text(input_ids)
        return EncodedChat(input_ids=input_ids, labels=np.where(is_kept, input_ids, IGNORE).astype(np.int32))

    def _kind(self, chunk: _Fixed | _Run) -> MediaKind | None:
        """Name the medium that a chunk is the placeholder of."""
        if not isinstance(chunk, _Fixed) or len(chunk.ids) != 1:
            return None
        kinds: dict[int, MediaKind] = {self._tokens.image: "image", self._tokens.video: "video"}
        return kinds.get(chunk.ids[0])

    def _is_text(self, input_ids: NDArray[np.int32]) -> NDArray[np.bool_]:
        return (input_ids != self._tokens.image) & (input_ids != self._tokens.video)

    def _encode_run(self, run: _Run, turns: Sequence[Turn], is_learned: bool) -> tuple[list[int], list[bool], str]:
        texts = [part if isinstance(part, str) else turns[part.turn].texts[part.text] for part in run.parts]
        text = "".join(texts)
        encoding = self._encoder.encode(text, add_special_tokens=False)
        if not is_learned:
            return encoding.ids, [False] * len(encoding.ids), text
        # An answer is the last part of its run, so it goes from here to the end of the text.
        start = len(text) - len(texts[-1])
        return encoding.ids, [end > start for _, end in encoding.offsets], text

    def _verify(self, rebuilt: str, turns: Sequence[Turn], opens_answer: bool) -> None:
        rendered = self._render([_message(turn, turn.texts) for turn in turns], opens_answer)
        if rendered != rebuilt:
            at = next((i for i, (a, b) in enumerate(zip(rendered, rebuilt, strict=False)) if a != b), len(rebuilt))
            excerpt = f"{rebuilt[max(0, at - 20) : at + 20]!r} became {rendered[max(0, at - 20) : at + 20]!r}"
            raise ChatError(f"the chat template of the checkpoint changes the text: {excerpt}")

    def _render(self, messages: list[dict[str, object]], opens_answer: bool) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    messages, chat_template=self._template, tokenize=False, add_generation_prompt=opens_answer
                )
            )
        except Exception as error:  # A template is a program of the checkpoint's author: it may raise anything.
            raise ChatError(f"the chat template of the checkpoint failed: {str(error)[:200]}") from None

    def _skeleton(self, turns: Sequence[Turn], opens_answer: bool) -> tuple[_Fixed | _Run, ...]:
        shape = tuple((turn.role, tuple(bool(text) for text in turn.texts), turn.media) for turn in turns)
        found = self._skeletons.get((shape, opens_answer))
        if found is None:
            found = self._build_skeleton(turns, opens_answer)
            if len(self._skeletons) >= _REMEMBERED:
                self._skeletons.clear()
            self._skeletons[shape, opens_answer] = found
        return found

    def _build_skeleton(self, turns: Sequence[Turn], opens_answer: bool) -> tuple[_Fixed | _Run, ...]:
        messages = []
        for number, turn in enumerate(turns):
            slots = [f"\ue000{number}.{i}\ue001" if text else "" for i, text in enumerate(turn.texts)]
            messages.append(_message(turn, slots))
        rendered = self._render(messages, opens_answer)
        chunks: list[_Fixed | _Run] = []
        for text in self._cut.split(rendered):
            if not text:
                continue
            previous = chunks[-1].answer if chunks and isinstance(chunks[-1], _Run) else -1
            if text in self._special:
                chunks.append(_Fixed(ids=(self._special[text],), text=text, answer=previous))
            else:
                chunks.append(self._run_or_fixed(text, turns))
        self._check_skeleton(chunks, turns)
        return tuple(chunks)

    def _run_or_fixed(self, text: str, turns: Sequence[Turn]) -> _Fixed | _Run:
        parts: list[str | _Slot] = []
        end = 0
        for match in _SLOT.finditer(text):
            parts += [text[end : match.start()], _Slot(int(match[1]), int(match[2]))]
            end = match.end()
        parts.append(text[end:])
        kept = tuple(part for part in parts if part != "")
        slots = [part for part in kept if isinstance(part, _Slot)]
        if not slots:
            return _Fixed(ids=tuple(self._encoder.encode(text, add_special_tokens=False).ids), text=text)
        answers = [slot for slot in slots if turns[slot.turn].role == "assistant"]
        if answers and (len(slots) > 1 or kept[-1] != answers[0]):
            raise ChatError("the chat template of the checkpoint does not end each answer with a special token")
        return _Run(parts=kept, answer=answers[0].turn if answers else -1)

    def _check_skeleton(self, chunks: list[_Fixed | _Run], turns: Sequence[Turn]) -> None:
        found = [part for chunk in chunks if isinstance(chunk, _Run) for part in chunk.parts if isinstance(part, _Slot)]
        wanted = [_Slot(n, i) for n, turn in enumerate(turns) for i, text in enumerate(turn.texts) if text]
        if found != wanted:
            raise ChatError(
                f"the chat template of the checkpoint shows {len(found)} of {len(wanted)} texts, or in another order"
            )
        places = [kind for chunk in chunks if (kind := self._kind(chunk))]
        media = [kind for turn in turns for kind in turn.media]
        for name in ("image", "video"):
            found_here, asked = places.count(name), media.count(name)
            if found_here != asked:
                raise ChatError(
                    f"the chat template of the checkpoint gives {found_here} {name} token(s) for {asked} {name}(s)"
                )
        if places != media:
            raise ChatError("the chat template of the checkpoint shows images and videos in another order")
        ended = {chunk.answer for chunk in chunks if isinstance(chunk, _Fixed)}
        if any(chunk.answer not in ended for chunk in chunks if isinstance(chunk, _Run)):
            raise ChatError("the chat template of the checkpoint does not end each answer with a special token")

    def _check_template(self) -> None:
        """Raise ChatError for a template that cannot serve, before the first record is read."""
        known = set(self._special.values())
        for name in ("vision_start", "vision_end", "image"):
            if getattr(self._tokens, name) not in known:
                raise ChatError(
                    f"the tokenizer has no special token with the model's {name} id {getattr(self._tokens, name)}"
                )
        question = Turn(role="user", texts=("", "q"), media=("image",))
        self.encode([question, Turn(role="assistant", texts=("a",))], [1], verify=True)
        self.encode_prompt([question], [1])


def _message(turn: Turn, texts: Sequence[str]) -> dict[str, object]:
    """Give a turn as the template wants it: plain text, or a list of parts where there are media."""
    if not turn.media:
        return {"role": turn.role, "content": texts[0]}
    parts: list[dict[str, str]] = []
    for number, text in enumerate(texts):
        if number:
            parts.append({"type": turn.media[number - 1]})
        if text:
            parts.append({"type": "text", "text": text})
    return {"role": turn.role, "content": parts}
