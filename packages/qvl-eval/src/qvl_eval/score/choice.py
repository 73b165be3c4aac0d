"""Read the option out of a reply to a multiple-choice question, as VLMEvalKit (without a judge) and MindSpeed-MM do.

VLMEvalKit looks at the environment variable VERBOSE here: where it is set, a reply with the token A and more than three
tokens gives nothing. Our rules read no environment; they are those of an environment without it.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

REFUSED = "Z"
NOT_FOUND = "no option found"
_NO_REPLY = "Failed to obtain answer via API"
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_TO_BLANKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
# Without word boundaries, as upstream has it: "answer is Chlorophyll" names C.
_ANSWER_IS = re.compile(r"answer\s+is\s+\**([ABCD])", re.IGNORECASE)
# A letter on its own counts only among the last tokens of the reply, since 2025-08.
_LAST_TOKENS = 4
# A reply longer than this many times all option texts is not searched for them, since 2025-08.
_TEXT_FACTOR = 2


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was read out of a reply: an option's letter, Z for a refusal, or None; and the rule that decided.

    `failed`: the reply itself chose no option.
    """

    letter: str | None
    rule: str
    failed: bool = False


def lettered(options: Mapping[str, object] | None) -> dict[str, str]:
    """Give the options that exist, A first: those under one letter whose text is neither missing nor empty.

    A small letter stands for its capital where that one is not there.
    """
    given = {str(name): text for name, text in (options or {}).items() if not _is_missing(text)}
    found = {letter: given.get(letter, given.get(letter.lower())) for letter in string.ascii_uppercase}
    return {letter: str(text) for letter, text in found.items() if text is not None}


def read_choice(reply: str, options: Mapping[str, str], since: Literal["legacy", "2025-08", "2026-06"]) -> Reading:
    """Give the option that a reply chooses. `options` are those of `lettered`."""
    return _by_letter(reply, options, since) or _by_text(reply, options, since)


def _by_letter(reply: str, options: Mapping[str, str], since: str) -> Reading | None:
    if _NO_REPLY in reply:
        return None
    if any(sentence in reply for sentence in _REFUSALS):
        return Reading(letter=REFUSED, rule="refusal", failed=True)
    tokens = reply.translate(_TO_BLANKS).split()
    present = set(tokens)
    letters = [letter for letter in options if letter in present]
    if len(letters) == 1:
        (letter,) = letters
        if since == "legacy" or tokens.index(letter) >= len(tokens) - _LAST_TOKENS:
            return Reading(letter=letter, rule="letter token")
    elif not letters and REFUSED in present:
        return Reading(letter=REFUSED, rule="refusal", failed=True)
    if since == "2026-06" and (match := _ANSWER_IS.search(reply)) and match[1].upper() in options:
        return Reading(letter=match[1].upper(), rule="answer is")
    return None


def _by_text(reply: str, options: Mapping[str, str], since: str) -> Reading:
    lowered = reply.lower()
    if since != "legacy" and len(lowered) > _TEXT_FACTOR * sum(map(len, options.values())):
        return Reading(letter=None, rule=NOT_FOUND, failed=True)
    letters = [letter for letter, text in options.items() if text.lower() in lowered]
    if len(letters) == 1:
        return Reading(letter=letters[0], rule="option text")
    return Reading(letter=None, rule="several option texts" if letters else NOT_FOUND, failed=True)


def _is_missing(text: object) -> bool:
    return text is None or text == "" or (isinstance(text, float) and math.isnan(text))
