"""Patterns of the shell (`*`, `?`, `[...]`) matched without going back: one step for each character, all counted.

A regular expression tries every way to share a text among several stars, which takes for ever. Here all places of the
pattern at which a text may be are held at once, as the bits of a number. All steps of a script come out of one `Work`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from qvl_core.migrate.shell_text import GAP

# Steps of all patterns of a script; a launch script needs some thousands.
_MOST_STEPS = 1 << 21
_SET = re.compile(r"\[([!^]?)(\]?[^\]\[\\]*)\]")


class TooMuchError(Exception):
    """The patterns of a script take more steps than are taken: what they give is not known."""


@dataclass
class Work:
    """The steps that are left."""

    left: int = _MOST_STEPS

    def take(self, count: int) -> None:
        """Take steps; raise TooMuchError where no more are left."""
        self.left -= count
        if self.left < 0:
            raise TooMuchError


@dataclass(frozen=True, kw_only=True)
class _One:
    """What stands for one character: ranges of characters, both ends included; `other` for all but those."""

    ranges: tuple[tuple[str, str], ...]
    other: bool = False

    def holds(self, char: str) -> bool:
        return any(first <= char <= last for first, last in self.ranges) != self.other


class Glob:
    """A pattern. Bit n of a number of places says that its first n characters are matched."""

    def __init__(self, ones: list[_One], stars: set[int], work: Work) -> None:
        """`stars` are the places in front of which a star stands."""
        self._ones, self._stars, self._work = ones, stars, work
        self._loops = sum(1 << at for at in stars)
        self._holding: dict[str, int] = {}

    def backwards(self) -> Glob:
        """Give the pattern of the texts that are written backwards."""
        count = len(self._ones)
        return Glob(self._ones[::-1], {count - at for at in self._stars}, self._work)

    def ends(self, text: str, start: int = 0) -> Iterator[int]:
        """Give all places at which a match that begins at `start` may end, the nearest first."""
        places, whole, cost = 1, 1 << len(self._ones), 1 + len(self._ones) // 256
        if places & whole:
            yield start
        for at in range(start, len(text)):
            self._work.take(cost)
            places = ((places & self._held(text[at])) << 1) | (places & self._loops)
            if not places:
                return
            if places & whole:
                yield at + 1

    def longest(self, text: str, start: int = 0) -> int | None:
        """Give the last of the ends; None where nothing matches."""
        found = None
        for end in self.ends(text, start):
            found = end
        return found

    def matches(self, text: str) -> bool:
        """Tell whether all of a text matches."""
        return self.longest(text) == len(text)

    def _held(self, char: str) -> int:
        """Give the places behind which this character is matched."""
        held = self._holding.get(char)
        if held is None:
            self._work.take(len(self._ones))
            bits = "".join("01"[one.holds(char)] for one in reversed(self._ones))
            held = self._holding[char] = int(bits or "0", 2)
        return held


def glob(pattern: str, work: Work) -> Glob | None:
    """Read a pattern; None for what is more than * ? and [...]. Raises TooMuchError."""
    work.take(len(pattern))
    if GAP in pattern or re.search(r"[?*+@!]\(|\[[!^]?[^\]]*\[[:.=]", pattern):
        return None
    ones: list[_One] = []
    stars: set[int] = set()
    at = 0
    while at < len(pattern):
        char = pattern[at]
        found = _SET.match(pattern, at) if char == "[" else None
        at = found.end() if found else at + 1
        if char == "*":
            stars.add(len(ones))
            continue
        one = _set(found[2], other=bool(found[1])) if found else _One(ranges=((char, char),))
        one = _One(ranges=(), other=True) if char == "?" else one
        if one is None:
            return None
        ones.append(one)
    return Glob(ones, stars, work)


def matches(pattern: str, text: str, work: Work) -> bool | None:
    """Tell whether a text is what a pattern says; None where that is not known."""
    try:
        found = glob(pattern, work)
        return None if found is None else found.matches(text)
    except TooMuchError:
        return None


def _set(inner: str, *, other: bool) -> _One | None:
    """Read what stands in [...]; None for a range that ends before it begins."""
    ranges = [(found[1], found[2] or found[1]) for found in re.finditer(r"(.)(?:-(.))?", inner, re.DOTALL)]
    if not ranges or any(first > last for first, last in ranges):
        return None
    return _One(ranges=tuple(ranges), other=other)
