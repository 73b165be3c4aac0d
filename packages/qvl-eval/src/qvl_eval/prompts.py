"""The prompts of the benchmarks: rows to texts and pictures, in the two families that VLMEvalKit has. Pure.

`custom` is what VLMEvalKit asks Qwen2-VL models and MindSpeed-MM all of them; `default` what VLMEvalKit asks
Qwen2.5-VL models. They differ in the closing sentences, and in where the pictures of MMMU stand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

PromptFamily = Literal["custom", "default"]
PromptKind = Literal["choice", "interleaved choice", "short answer", "plain"]

CHOOSE = "Please select the correct answer from the options above."
CHOOSE_CHINESE = "请直接回答选项字母。"
SHORT_ANSWER = {
    "custom": "Please try to answer the question with short words or phrases if possible.",
    "default": "Answer the question using a single word or phrase.",
}
_CJK = re.compile("[\u4e00-\u9fff]")
_MARKER = "<image "


@dataclass(frozen=True)
class Picture:
    """The place of a row's picture in a prompt; `number` counts from 0."""

    number: int


PromptPart: TypeAlias = "str | Picture"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What of a row goes into its prompt. `options` are by letter; `hint` is "" where there is none."""

    question: str
    options: Mapping[str, str] = field(default_factory=dict)
    hint: str = ""
    pictures: int = 1


class PromptError(ValueError):
    """A row whose text does not fit its pictures."""


def prompt_parts(kind: PromptKind, family: PromptFamily, asked: Asked) -> tuple[PromptPart, ...]:
    """Give the prompt of a row; texts may be empty between two pictures. Raises PromptError.

    Kinds: `choice` (AI2D), `interleaved choice` (MMMU), `short answer` (ChartQA, DocVQA), `plain` (the question as it
    stands).
    """
    pictures = [Picture(number) for number in range(asked.pictures)]
    if kind == "plain":
        return (*pictures, asked.question)
    if kind == "short answer":
        return (*pictures, f"{asked.question}\n{SHORT_ANSWER[family]}")
    if family == "custom":
        return (*pictures, custom_choice(asked, may_be_chinese=kind == "choice"))
    text = default_choice(asked)
    return cut_at_markers(text, pictures) if kind == "interleaved choice" else (*pictures, text)


def custom_choice(asked: Asked, *, may_be_chinese: bool) -> str:
    """Give the text of a question with options as MindSpeed-MM asks it: nothing blank at its end.

    The closing sentence is there where an option is; it is Chinese if any character before it is an ideograph.
    """
    text = _question(asked)
    if asked.options:
        text += CHOOSE_CHINESE if may_be_chinese and _CJK.search(text) else CHOOSE
    return text.rstrip()


def default_choice(asked: Asked) -> str:
    """Give the text of a question with options as VLMEvalKit's data sets ask it, the blank and line end at its end."""
    return _question(asked) + (f"{CHOOSE} \n" if asked.options else "")


def cut_at_markers(text: str, pictures: Sequence[Picture]) -> tuple[PromptPart, ...]:
    """Put picture n in the place of each `<image n>`; without any marker all pictures come first. Raises PromptError.

    A picture that no marker names is not shown, as upstream does; one named twice is shown twice.
    """
    first, *rest = text.split(_MARKER)
    if not rest:
        return (*pictures, text)
    parts: list[PromptPart] = [first]
    for piece in rest:
        number = piece[:1]
        if not (number.isascii() and number.isdecimal() and piece[1:2] == ">"):
            raise PromptError(f"holds {_MARKER + piece[:8]!r}, which is no marker such as {_MARKER}1>")
        if not 1 <= int(number) <= len(pictures):
            raise PromptError(f"shows {_MARKER}{number}> and the row has {len(pictures)} picture(s)")
        parts += [pictures[int(number) - 1], piece[2:]]
    return tuple(parts)


def _question(asked: Asked) -> str:
    hint = f"Hint: {asked.hint}\n" if asked.hint else ""
    lines = "".join(f"{letter}. {text}\n" for letter, text in asked.options.items())
    return f"{hint}Question: {asked.question}\n" + (f"Options:\n{lines}" if lines else "")
