"""Texts of a shell script with the line of each character, and how they make the fields of a word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

# Stands in a text for what cannot be known without running something; no script holds this character.
GAP = "\ue000"
# Lines of the n-th file that a script sources are counted from n times this number.
LINES_OF_A_FILE = 1_000_000
BLANKS = " \t\n"
# An unquoted word with one of these is matched with the names of files.
MATCHING = frozenset("*?[")


@dataclass(frozen=True)
class Text:
    """A text with the line of each of its characters.

    `many` says that it stands for no, one or several words or items: how many is not known.
    """

    chars: str = ""
    lines: tuple[int, ...] = ()
    many: bool = False

    @classmethod
    def joined(cls, parts: Iterable[Text]) -> Text:
        """Put texts together, in time that grows with their length: a script may hold 100,000 of them."""
        held = list(parts)
        if len(held) == 1:
            return held[0]
        if len(held) == 2:
            many = held[0].many or held[1].many
            return cls(held[0].chars + held[1].chars, held[0].lines + held[1].lines, many)
        lines = tuple(chain.from_iterable(part.lines for part in held))
        return cls("".join(part.chars for part in held), lines, any(part.many for part in held))

    @property
    def line(self) -> int:
        return self.lines[0] if self.lines else 0

    @property
    def known(self) -> bool:
        return GAP not in self.chars

    def one(self) -> Text:
        """Give it as what is one text, whatever it is made of."""
        return replace(self, many=False) if self.many else self

    def words(self, blanks: str = BLANKS) -> list[Text]:
        """Split at white space, as the shell does with an unquoted variable; at some of it only where IFS says so."""
        pattern = r"\S+" if blanks == BLANKS else f"[^{blanks}]+" if blanks else r"(?s:.+)"
        return [Text(m[0], self.lines[m.start() : m.end()]) for m in re.finditer(pattern, self.chars)]


@dataclass
class Word:
    """One word of a command: its fields (an array makes several), its first line, whether it was quoted at all."""

    fields: list[Text]
    line: int
    quoted: bool
    raw: str


class Fields:
    """The fields of a word in the making: an unquoted variable is split at white space, an array at its items."""

    def __init__(self) -> None:
        self._fields: list[Text] = []
        self._open: list[Text] | None = None

    def add(self, parts: list[Text]) -> None:
        for index, part in enumerate(parts):
            if index:
                self._close()
            self._extend(part)

    def add_split(self, parts: list[Text], blanks: str = BLANKS) -> None:
        pieces = [piece for part in parts for piece in part.words(blanks)]
        if not pieces:
            return
        around = (parts[0].chars[:1], parts[-1].chars[-1:])
        before, behind = (char.isspace() if blanks == BLANKS else bool(char) and char in blanks for char in around)
        if before:
            self._close()
        for index, piece in enumerate(pieces):
            if index:
                self._close()
            self._extend(piece)
        if behind:
            self._close()

    def finished(self) -> list[Text]:
        self._close()
        return self._fields

    def _extend(self, part: Text) -> None:
        if self._open is None:
            self._open = []
        self._open.append(part)

    def _close(self) -> None:
        if self._open is not None:
            self._fields.append(Text.joined(self._open))
            self._open = None


def item(texts: Sequence[Text], index: int, line: int) -> list[Text]:
    """Give the item at an index, none where there is none; a gap where one before it may stand for several."""
    before = texts[: index + 1] if index >= 0 else texts
    if any(text.many for text in before) or index < -len(texts):
        return [Text(GAP, (line,))]
    return list(texts[index : index + 1]) if index >= 0 else [texts[index]]


def marked(fields: Sequence[Text], *, matched: bool) -> list[Text]:
    """Mark the fields of a word that may be several: those with a gap, and those that are matched with files."""
    unsure = [text.many or not text.known or (matched and bool(set(text.chars) & MATCHING)) for text in fields]
    return [replace(text, many=many or not any(unsure)) for text, many in zip(fields, unsure, strict=True)]


def split_parts(parts: list[Text], separators: Text) -> tuple[list[Text], str]:
    """Give what is split, and at which blanks, where IFS is this; a gap for what would be split at something else."""
    blanks = "".join(char for char in BLANKS if char in separators.chars)
    others = set(separators.chars) - set(BLANKS)
    if not others:
        return parts, blanks
    unsure = [bool(set(part.chars) & others) or (not separators.known and not part.chars.isalnum()) for part in parts]
    lines = [part.lines[:1] or (0,) for part in parts]
    gaps = [Text(GAP, line, many=True) for line in lines]
    return [gap if one and part.chars else part for part, gap, one in zip(parts, gaps, unsure, strict=True)], blanks


def joint(separators: Text, line: int) -> Text:
    """Give what `$*` puts between its items, where IFS is this."""
    return Text(separators.chars[:1], (line,) * len(separators.chars[:1]))
