"""Words of a shell script with the line of each character: quotes, comments, continuations, expansions. Runs nothing.

Enough of POSIX shell and bash for launch scripts. What would have to be executed (`$(...)`, backquotes) or is not
understood becomes a gap: text of unknown value, which makes the value that holds it unknown too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from qvl_core.migrate.shell_arithmetic import calculate
from qvl_core.migrate.shell_text import GAP, Fields, Text, Word

NAME = re.compile(r"[A-Za-z_]\w*")
_SPECIAL = frozenset("#@*?-$!0123456789")
_BLANK = " \t"
# Expansions inside expansions; nobody writes more than three.
_DEEPEST = 30


Lookup = Callable[[str], "list[Text] | None"]


@dataclass
class Expansion:
    """Reads words out of a script. `notes` collects (line, remark) on what bash would have understood otherwise."""

    script: str
    lookup: Lookup
    assign: Callable[[str, Text], None]
    at: int = 0
    line: int = 1
    notes: list[tuple[int, str]] = field(default_factory=list)
    depth: int = 0

    def peek(self, ahead: int = 0) -> str:
        return self.script[self.at + ahead : self.at + ahead + 1]

    def take(self) -> str:
        char = self.peek()
        self.at += 1
        if char == "\n":
            self.line += 1
        return char

    def skip_blanks(self) -> None:
        """Skip blanks, comments and continued line ends; stops at a line end, an operator or a word."""
        while True:
            if self.peek() and self.peek() in _BLANK + "\r":
                self.take()
            elif self.peek() == "#":
                while self.peek() not in ("", "\n"):
                    self.take()
            elif not self._continuation():
                return

    def _continuation(self) -> bool:
        """Step over a backslash at the end of a line; one with blanks or a comment behind it is meant as such too."""
        found = re.compile(r"\\(\r?\n|([ \t]+(?:#[^\n]*)?)\r?(?:\n|\Z))").match(self.script, self.at)
        if found is None:
            return False
        if found[2]:
            self.notes.append((self.line, "the backslash is not the last character: bash ends the command here"))
        self.line += found[0].count("\n")
        self.at = found.end()
        return True

    def word(self) -> Word | None:
        """Read one word; None at a line end, an operator, or the end of the script."""
        self.skip_blanks()
        start, line = self.at, self.line
        split = Fields()
        quoted = False
        while (char := self.peek()) and char not in " \t\r\n;&|<>()":
            parts, splits = self._part(char)
            quoted = quoted or char in "\"'"
            if parts is None:
                continue
            (split.add_split if splits else split.add)(parts)
        if self.at == start:
            return None
        return Word(fields=split.finished(), line=line, quoted=quoted, raw=self.script[start : self.at])

    def value(self) -> Text:
        """Read the right side of an assignment: one text, never split."""
        found: list[Text] = []
        while (char := self.peek()) and char not in " \t\r\n;&|<>()":
            parts, _ = self._part(char)
            for index, part in enumerate(parts or ()):
                found += [Text(" ", (self.line,)), part] if index else [part]
        return Text.joined(found)

    def array(self) -> list[Text]:
        """Read `(a b c)`; the opening bracket is next."""
        self.take()
        found: list[Text] = []
        while True:
            self.skip_blanks()
            if self.peek() == "\n":
                self.take()
            elif self.peek() in (")", ""):
                self.take()
                return found
            elif (word := self.word()) is not None:
                found += word.fields
            else:
                self.take()

    def _part(self, char: str) -> tuple[list[Text] | None, bool]:
        """Read one part of a word; give its texts and whether they are split at white space."""
        line = self.line
        if char == "'":
            return [self._single()], False
        if char == '"':
            return self._double(), False
        if char == "\\":
            if self._continuation():
                return None, False
            self.take()
            escaped = self.take()
            return [Text(escaped, (line,) * len(escaped))], False
        if char == "`":
            self._to_backquote()
            return [Text(GAP, (line,))], False
        if char == "$":
            return self._dollar(), True
        return [Text(self.take(), (line,))], False

    def _single(self) -> Text:
        self.take()
        result = self._run("'")
        self._close("'")
        return result

    def _double(self) -> list[Text]:
        self.take()
        # An array makes several texts; what stands before and after it belongs to its first and last.
        texts: list[list[Text]] = [[]]
        while (char := self.peek()) not in ('"', ""):
            line = self.line
            if char == "\\" and self.peek(1) and self.peek(1) in '"\\$`\n':
                self.take()
                escaped = self.take()
                texts[-1] += [] if escaped == "\n" else [Text(escaped, (line,))]
            elif char == "\\":
                texts[-1].append(Text(self.take(), (line,)))
            elif char == "$":
                found = self._dollar()
                texts[-1] += found[:1]
                texts += [[more] for more in found[1:]]
            elif char == "`":
                self._to_backquote()
                texts[-1].append(Text(GAP, (line,)))
            else:
                texts[-1].append(self._run('"\\$`'))
        self._close('"')
        return [Text.joined(parts) for parts in texts]

    def _run(self, stops: str) -> Text:
        """Take everything up to one of these characters."""
        chars: list[str] = []
        lines: list[int] = []
        while (char := self.peek()) and char not in stops:
            lines.append(self.line)
            chars.append(self.take())
        return Text("".join(chars), tuple(lines))

    def _close(self, quote: str) -> None:
        if self.take() != quote:
            self.notes.append((self.line, f"the script ends inside {quote} quotes"))

    def _to_backquote(self) -> None:
        self.take()
        while self.peek() not in ("`", ""):
            if self.take() == "\\":
                self.take()
        self.take()

    def _dollar(self) -> list[Text]:
        line = self.line
        self.take()
        if self.script.startswith("((", self.at):
            return [self._arithmetic()]
        if self.peek() == "(":
            self._to_bracket("(", ")")
            return [Text(GAP, (line,))]
        if self.peek() == "{":
            return self._braced()
        if found := NAME.match(self.script, self.at):
            self.at = found.end()
            return self._variable(found[0], line)
        if self.peek() and self.peek() in _SPECIAL:
            self.take()
            return [Text(GAP, (line,))]
        return [Text("$", (line,))]

    def _variable(self, name: str, line: int) -> list[Text]:
        found = self.lookup(name)
        return [Text(GAP, (line,))] if found is None else found[:1]

    def _braced(self) -> list[Text]:
        line = self.line
        inner = self._to_bracket("{", "}")
        found = re.fullmatch(r"([A-Za-z_]\w*)(\[[@*]\])?(?:(:?[-=+?])(.*))?", inner, re.DOTALL)
        if found is None:
            return [Text(GAP, (line,))]
        name, whole, operator, word = found.groups()
        value = self.lookup(name)
        if whole:
            return [Text(GAP, (line,))] if value is None else value
        is_set = (value is not None and not (operator or "").startswith(":")) or bool(value and value[0].chars)
        if not operator:
            return self._variable(name, line)
        if operator.endswith("+"):
            return [self._inner(word, line)] if is_set else [Text()]
        if is_set:
            return (value or [])[:1]
        if operator.endswith("?"):
            return [Text(GAP, (line,))]
        default = self._inner(word, line)
        if operator.endswith("="):
            self.assign(name, default)
        return [default]

    def _inner(self, word: str, line: int) -> Text:
        if self.depth >= _DEEPEST:
            self.notes.append((line, f"more than {_DEEPEST} expansions inside each other are not followed"))
            return Text(GAP, (line,))
        inner = Expansion(
            script=word, lookup=self.lookup, assign=self.assign, line=line, notes=self.notes, depth=self.depth + 1
        )
        found: list[Text] = []
        while inner.peek():
            if inner.peek() in " \t\n;&|<>()":
                found.append(Text(inner.peek(), (inner.line,)))
                inner.take()
                continue
            parts, _ = inner._part(inner.peek())
            found += parts or ()
        return Text.joined(found)

    def _to_bracket(self, opening: str, closing: str) -> str:
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

    def _arithmetic(self) -> Text:
        line = self.line
        inner = self._to_bracket("(", ")")
        if not (inner.startswith("(") and inner.endswith(")")):
            return Text(GAP, (line,))
        expanded = self._inner(inner[1:-1], line)
        number = calculate(expanded.chars, self._number_of)
        chars = GAP if number is None else str(number)
        return Text(chars, (line,) * len(chars))

    def _number_of(self, name: str) -> int | None:
        found = self.lookup(name)
        if found is None:
            return None
        # An unset or empty variable counts as 0; a text is no number.
        written = found[0].chars.strip() if found else ""
        return int(written) if re.fullmatch(r"-?\d{1,18}", written) else None
