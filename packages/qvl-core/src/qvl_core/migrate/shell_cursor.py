"""A place in a script that is read: its line, what comes next, and how blanks and comments are passed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from qvl_core.migrate.shell_globs import Work
from qvl_core.migrate.shell_text import Text

_BLANK = " \t"
Lookup = Callable[[str], "list[Text] | None"]


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What words are read with: variables and parameters (`1`, `@`, `#`), and where to tell of what bash does not do.

    `substitute` gives what `$(...)` with this text prints, where that is known without running anything; `work` is
    what is left for patterns.
    """

    lookup: Lookup
    assign: Callable[[str, Text], None]
    note: Callable[[int, str], None]
    substitute: Callable[[str, int], Text | None] = lambda text, line: None
    work: Work = field(default_factory=Work)


@dataclass
class Cursor:
    """A place in a script. `lines` has the line of each character, where they are not those of the text."""

    script: str
    around: Surroundings
    at: int = 0
    line: int = 1
    depth: int = 0
    lines: tuple[int, ...] = ()
    # Here-documents to come: the word that ends each, whether tabs are cut off, whether it is expanded.
    heredocs: list[tuple[str, bool, bool]] = field(default_factory=list)

    def peek(self, ahead: int = 0) -> str:
        return self.script[self.at + ahead : self.at + ahead + 1]

    def take(self) -> str:
        at = self.at
        char = self.script[at : at + 1]
        self.at = at + 1
        if self.lines:
            self.line = self.lines[min(self.at, len(self.lines) - 1)]
        elif char == "\n":
            self.line += 1
        return char

    def step(self, count: int) -> None:
        """Go forward, over line ends too."""
        if self.lines:
            self.line = self.lines[min(self.at + count, len(self.lines) - 1)]
        else:
            self.line += self.script.count("\n", self.at, self.at + count)
        self.at += count

    def go(self, at: int, line: int) -> None:
        """Go to a place that was passed before."""
        self.at, self.line = at, line

    def skip_blanks(self) -> None:
        """Skip blanks, comments and continued line ends; stops at a line end, an operator or a word."""
        while True:
            if self.peek() and self.peek() in _BLANK + "\r":
                self.take()
            elif self.peek() == "#":
                while self.peek() not in ("", "\n"):
                    self.take()
            elif not self.continuation():
                return

    def continuation(self) -> bool:
        """Step over a backslash at the end of a line; one with blanks or a comment behind it is meant as such too."""
        found = re.compile(r"\\(\r?\n|([ \t]+(?:#[^\n]*)?)\r?(?:\n|\Z))").match(self.script, self.at)
        if found is None:
            return False
        if found[2]:
            self.around.note(self.line, "the backslash is not the last character: bash ends the command here")
        self.step(len(found[0]))
        return True

    def to_bracket(self, opening: str, closing: str) -> str:
        """Step over a bracket with everything in it, quotes respected; give what is inside."""
        self.take()
        start, depth = self.at, 1
        while self.peek():
            char = self.take()
            if char == "\\":
                self.take()
            elif char == "'" and opening == "(":
                while self.peek() not in ("'", ""):
                    self.take()
                self.take()
            elif char == opening:
                depth += 1
            elif char == closing:
                depth -= 1
                if depth == 0:
                    return self.script[start : self.at - 1]
        return self.script[start : self.at]
