"""MMMU's own rules: the option of a reply, and the texts and numbers of a reply to an open question.

Where upstream draws an option for a reply that names none, nothing is read here: its draw depends on the row order.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

from qvl_eval.score.choice import NOT_FOUND, Reading

_WORDS_FOR_TEXTS = 5
_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_TRIVIAL = frozenset(":,.!?;'")
# Upstream's three scans. That a number begins at the first digit of its run changes no match, as each of them takes
# whole runs of digits; without it, a reply of n digits would take n * n steps.
_WITH_COMMAS = re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b")
_SCIENTIFIC = re.compile(r"-?(?<!\d)\d+(?:\.\d+)?[eE][+-]?\d+")
_SIMPLE = re.compile(r"-?(?:(?<!\d)\d+\.\d+|\.\d+|(?<!\d)\d+\b)(?![eE][+-]?\d+)(?![,\d])")

Item = str | float


def read_official_choice(reply: str, options: Mapping[str, str]) -> Reading:
    """Give the option that a reply chooses. `options` are those of `choice.lettered`."""
    for char in ",.!?;:'":
        reply = reply.strip(char)
    padded = f" {reply} "
    for rule, form in (("letter in brackets", "({})"), ("letter between blanks", " {} ")):
        places = {letter: padded.rfind(form.format(letter)) for letter in options}
        if (last := _last(places)) is not None:
            return Reading(letter=last, rule=rule)
    if len(padded.split()) > _WORDS_FOR_TEXTS:
        lowered = padded.lower()
        last = _last({letter: lowered.rfind(text.lower()) for letter, text in options.items()})
        if last is not None:
            return Reading(letter=last, rule="option text")
    return Reading(letter=None, rule=NOT_FOUND, failed=True)


def drawn_option(options: Mapping[str, str], index: str, seed: int = 42) -> str | None:
    """Give an option that depends on the row's index and the seed alone; None where there are no options."""
    if not options:
        return None
    digest = hashlib.sha256(f"{seed} {index}".encode("utf-8", "backslashreplace")).digest()
    return list(options)[int.from_bytes(digest, "big") % len(options)]


def read_open(reply: str) -> list[Item]:
    """Give the texts and numbers of a reply to an open question, each once."""
    texts = _key_texts(reply)
    numbers = [
        number for text in texts for scan in (_WITH_COMMAS, _SCIENTIFIC, _SIMPLE) for number in scan.findall(text)
    ]
    return list(dict.fromkeys(item for text in (*texts, *numbers) for item in normalised(text)))


def matching_item(items: Iterable[Item], references: Iterable[str]) -> Item | None:
    """Give the first item that is a right answer: an equal number, or a text that holds a reference; else None."""
    wanted = [item for reference in references for item in normalised(reference)]
    texts = [item for item in wanted if isinstance(item, str)]
    numbers = {item for item in wanted if isinstance(item, float)}
    for item in items:
        # A reference of nan equals nothing, itself included.
        found = any(text in item for text in texts) if isinstance(item, str) else item == item and item in numbers
        if found:
            return item
    return None


def normalised(text: str) -> list[Item]:
    """Give a number rounded to two decimals, or small letters; of one character the two texts with a blank."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def _key_texts(reply: str) -> list[str]:
    """Give what follows the words that announce an answer, for each line; the whole reply where no line has them."""
    reply = reply.strip().strip(".").lower()
    lines = reply.split("\n")
    found = [_tail(line, (*_INDICATORS, "=") if i == len(lines) - 1 else _INDICATORS) for i, line in enumerate(lines)]
    return [tail for tail in found if tail and tail not in _TRIVIAL] or [reply]


def _tail(line: str, indicators: Iterable[str]) -> str:
    shortest = ""
    for indicator in indicators:
        _, mark, after = line.rpartition(indicator)
        after = after.strip()
        if mark and (not shortest or len(after) < len(shortest)):
            shortest = after
    return shortest


def _last(places: Mapping[str, int]) -> str | None:
    """Give the letter that was found furthest right, the first of several at one place."""
    found = {letter: place for letter, place in places.items() if place >= 0}
    return max(found, key=found.__getitem__) if found else None
