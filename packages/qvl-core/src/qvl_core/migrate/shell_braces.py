"""What stands inside `${...}`, and `{a,b}` and `{1..4}` of a word: taken apart, and worked out on known texts."""

from __future__ import annotations

import re
from dataclasses import dataclass

from qvl_core.migrate.shell_globs import TooMuchError, Work, glob
from qvl_core.migrate.shell_text import Text

_INNER = re.compile(
    r"(?P<kind>[#!]?)(?P<name>[A-Za-z_]\w*|\d+|[@*#])(?:\[(?P<index>[^\]]*)\])?"
    r"(?:(?P<sign>:[-=+?]|[-=+?]|:|##?|%%?|//?|\^\^?|,,?)(?P<word>.*))?",
    re.DOTALL,
)
_BRACE = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(-?\d{1,6})\.\.(-?\d{1,6})(?:\.\.(-?\d{1,6}))?")
_MOST_WORDS = 1000
CUTTING = ("#", "##", "%", "%%")
REPLACING = ("/", "//")
RAISING = ("^", "^^", ",", ",,")


@dataclass(frozen=True, kw_only=True)
class Braced:
    """`${name[index]sign word}`; kind is "#" for a length, "!" for an indirect name."""

    kind: str
    name: str
    index: str | None
    sign: str
    word: str


def braced(inner: str) -> Braced | None:
    """Take the inside of `${...}` apart; None for what is not understood."""
    if inner == "#":
        return Braced(kind="", name="#", index=None, sign="", word="")
    found = _INNER.fullmatch(inner)
    if found is None or (found["kind"] and found["sign"]):
        return None
    return Braced(
        kind=found["kind"], name=found["name"], index=found["index"], sign=found["sign"] or "", word=found["word"] or ""
    )


def cut(text: Text, sign: str, pattern: str, work: Work) -> Text | None:
    """Take the shortest (# %) or longest (## %%) match off the front or the back; None where that is not known."""
    try:
        found = glob(pattern, work)
        if found is None:
            return None
        front = sign in ("#", "##")
        found, chars = (found, text.chars) if front else (found.backwards(), text.chars[::-1])
        end = (found.longest(chars) if len(sign) == 2 else next(found.ends(chars), None)) or 0
    except TooMuchError:
        return None
    kept = slice(end, None) if front else slice(0, len(chars) - end)
    return Text(text.chars[kept], text.lines[kept])


def replaced(text: Text, sign: str, pattern: str, new: Text, work: Work) -> Text | None:
    """Replace the first match, or all (//), by a text, the longest at each place; None where that is not known."""
    anchor = pattern[:1] if sign == "/" and pattern[:1] in ("#", "%") else ""
    if not pattern[len(anchor) :] or len(text.chars) > 10_000:
        return None
    parts: list[Text] = []
    at = copied = 0
    try:
        found = glob(pattern[len(anchor) :], work)
        if found is None:
            return None
        while at < len(text.chars) and not (anchor == "#" and at):
            end = found.longest(text.chars, at) or at
            if end == at or (anchor == "%" and end < len(text.chars)):
                at += 1
                continue
            work.take(len(new.chars))
            parts += [Text(text.chars[copied:at], text.lines[copied:at]), new]
            at = copied = end
            if sign == "/":
                break
    except TooMuchError:
        return None
    return Text.joined([*parts, Text(text.chars[copied:], text.lines[copied:])])


def raised(text: Text, sign: str) -> Text | None:
    """Change to capitals or small letters: the first (^ ,) or all (^^ ,,)."""
    change = str.upper if sign.startswith("^") else str.lower
    chars = change(text.chars) if len(sign) == 2 else change(text.chars[:1]) + text.chars[1:]
    return Text(chars, text.lines) if len(chars) == len(text.chars) else None


def part(text: Text, start: int, length: int | None) -> Text | None:
    """Give `${X:start:length}`; negative numbers count from the end."""
    size = len(text.chars)
    first = start if start >= 0 else size + start
    if first < 0:
        return Text()
    last = size if length is None else first + length if length >= 0 else size + length
    if last < first:
        return Text() if first > size else None
    return Text(text.chars[first:last], text.lines[first:last])


def brace_words(raw: str) -> list[str] | None:
    """Give the words that `a{b,c}` and `{1..4}` stand for; one word where there is no brace, None where unknown."""
    waiting, found = [raw], list[str]()
    while waiting:
        word = waiting.pop(0)
        match = next((m for m in _BRACE.finditer(word) if "," in m[1] or _RANGE.fullmatch(m[1])), None)
        if match is None:
            if re.search(r"\{.*(,|\.\.).*\}", word):
                return None
            found.append(word)
            continue
        span = _RANGE.fullmatch(match[1])
        items = _numbers(span) if span else match[1].split(",")
        if items is None or len(waiting) + len(found) + len(items) > _MOST_WORDS:
            return None
        waiting[:0] = [word[: match.start()] + item + word[match.end() :] for item in items]
    return found


def _numbers(span: re.Match[str]) -> list[str] | None:
    first, last, step = int(span[1]), int(span[2]), abs(int(span[3] or 1)) or 1
    padded = any(len(text.lstrip("-")) > 1 and text.lstrip("-").startswith("0") for text in (span[1], span[2]))
    if padded or abs(last - first) // step > _MOST_WORDS:
        return None
    step = step if last >= first else -step
    return [str(number) for number in range(first, last + (1 if step > 0 else -1), step)]
