"""Words of a shell script with the line of each character: quotes, comments, continuations, expansions. Runs nothing.

Enough of POSIX shell and bash for launch scripts. What would have to be executed (`$(...)`, backquotes) or is not
understood becomes a gap: text of unknown value, which makes the value that holds it unknown too.
"""

from __future__ import annotations

import re

from qvl_core.migrate.shell_arithmetic import calculate
from qvl_core.migrate.shell_braces import (
    CUTTING,
    RAISING,
    REPLACING,
    Braced,
    brace_words,
    braced,
    cut,
    raised,
    replaced,
)
from qvl_core.migrate.shell_braces import (
    part as part_of,
)
from qvl_core.migrate.shell_cursor import Cursor
from qvl_core.migrate.shell_text import BLANKS, GAP, MATCHING, Fields, Text, Word, item, joint, marked, split_parts

NAME = re.compile(r"[A-Za-z_]\w*")
_SPECIAL = frozenset("#@*?-$!0123456789")
_ESCAPED = re.compile(r"'((?:[^'\\]|\\[nt'\\])*)'")
# Expansions inside expansions; nobody writes more than three.
_DEEPEST = 30


class Expansion(Cursor):
    """Reads words out of a script."""

    def word(self) -> Word | None:
        """Read one word; None at a line end, an operator, or the end of the script."""
        self.skip_blanks()
        start, line = self.at, self.line
        split = Fields()
        quoted = unsure = matched = False
        while (char := self.peek()) and char not in " \t\r\n;&|<>()":
            parts, splits = self._part(char)
            quoted = quoted or char in "\"'"
            if parts is None:
                continue
            blanks = ""
            if splits:
                parts, blanks = split_parts(parts, self._separators())
            unsure = unsure or any(part.many or (splits and not part.known) for part in parts)
            matched = matched or (char not in "\"'\\" and any(set(part.chars) & MATCHING for part in parts))
            split.add_split(parts, blanks) if splits else split.add(parts)
        if self.at == start:
            return None
        raw, fields = self.script[start : self.at], split.finished()
        if "{" in raw and not quoted and ("," in raw or ".." in raw) and re.search(r"(?<!\$)\{", raw):
            words = brace_words(raw) if not set(raw) & set("$`\\") else None
            unsure = unsure or words is None
            fields = [Text(GAP, (line,))] if words is None else [Text(one, (line,) * len(one)) for one in words]
        if unsure or matched:
            fields = marked(fields, matched=matched)
        return Word(fields=fields, line=line, quoted=quoted, raw=raw)

    def value(self) -> Text:
        """Read the right side of an assignment: one text, never split."""
        found: list[Text] = []
        while (char := self.peek()) and char not in " \t\r\n;&|<>()":
            parts, _ = self._part(char)
            for index, part in enumerate(parts or ()):
                found += [Text(" ", (self.line,)), part] if index else [part]
        return Text.joined(found).one()

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
            if self.continuation():
                return None, False
            self.take()
            escaped = self.take()
            return [Text(escaped, (line,) * len(escaped))], False
        if char == "`":
            return [self._backquoted()], True
        if char == "$":
            return self._dollar(), True
        if char == "~" and self.script[self.at - 1 : self.at] in (*" \t\n=:", "") and self.peek(1) in (*"/ \t\n;", ""):
            self.take()
            return [Text(GAP, (line,))], False
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
        empty_list = False
        while (char := self.peek()) not in ('"', ""):
            line = self.line
            if char == "\\" and self.peek(1) and self.peek(1) in '"\\$`\n':
                self.take()
                escaped = self.take()
                texts[-1] += [] if escaped == "\n" else [Text(escaped, (line,))]
            elif char == "\\":
                texts[-1].append(Text(self.take(), (line,)))
            elif char == "$":
                found = self._dollar(quoted=True)
                empty_list = empty_list or not found
                texts[-1] += found[:1]
                texts += [[more] for more in found[1:]]
            elif char == "`":
                texts[-1].append(self._backquoted())
            else:
                texts[-1].append(self._run('"\\$`'))
        self._close('"')
        # "$@" and "${A[@]}" of nothing make no word at all.
        return [] if empty_list and texts == [[]] else [Text.joined(parts) for parts in texts]

    def document(self, *, expanded: bool) -> Text:
        """Read all that is left as a here-document, with or without expansions."""
        found: list[Text] = []
        while char := self.peek():
            line = self.line
            if expanded and char == "\\" and self.peek(1) and self.peek(1) in "\\$`\n":
                self.take()
                escaped = self.take()
                found += [] if escaped == "\n" else [Text(escaped, (line,))]
            elif expanded and char in "$`":
                parts = self._dollar(quoted=True) if char == "$" else [self._backquoted()]
                found += [piece for part in parts for piece in (Text(" ", (line,)), part)][1:]
            elif char in "\\$`":
                found.append(Text(self.take(), (line,)))
            else:
                found.append(self._run("\\$`"))
        return Text.joined(found)

    def _run(self, stops: str) -> Text:
        """Take everything up to one of these characters."""
        start = self.at
        lines: list[int] = []
        while (char := self.peek()) and char not in stops:
            lines.append(self.line)
            self.take()
        return Text(self.script[start : self.at], tuple(lines))

    def _close(self, quote: str) -> None:
        if self.take() != quote:
            self.around.note(self.line, f"the script ends inside {quote} quotes")

    def _backquoted(self) -> Text:
        line = self.line
        self.take()
        chars: list[str] = []
        while self.peek() not in ("`", ""):
            char = self.take()
            if char == "\\" and self.peek() and self.peek() in "`$\\":
                char = self.take()
            chars.append(char)
        self.take()
        return self.around.substitute("".join(chars), line) or Text(GAP, (line,))

    def _dollar(self, *, quoted: bool = False) -> list[Text]:
        line = self.line
        self.take()
        gap = [Text(GAP, (line,))]
        if self.script.startswith("((", self.at):
            return [self._arithmetic()]
        if self.peek() == "(":
            inner = self.to_bracket("(", ")")
            return [self.around.substitute(inner, line) or gap[0]]
        if self.peek() == "{":
            return self._braced()
        if found := NAME.match(self.script, self.at):
            self.step(len(found[0]))
            return self._variable(found[0], line)
        if self.peek() and self.peek() in _SPECIAL:
            name = self.take()
            found_texts = self.around.lookup(name)
            unknown = [Text(GAP, (line,), many=name == "@")]
            return unknown if found_texts is None else found_texts
        if not quoted and self.peek() and self.peek() in "'\"":
            if found := _ESCAPED.match(self.script, self.at):
                self.step(len(found[0]))
                chars = re.sub(r"\\(.)", lambda one: {"n": "\n", "t": "\t"}.get(one[1], one[1]), found[1])
                return [Text(chars, (line,) * len(chars))]
            # $'...' knows further escapes of its own, $"..." translations.
            return [Text(GAP, (line,)), *self._discard()]
        return [Text("$", (line,))]

    def _separators(self) -> Text:
        """Give IFS; that of the shell that starts the script counts for nothing."""
        found = self.around.lookup("IFS")
        return Text(BLANKS) if found is None else Text.joined(found)

    def _discard(self) -> list[Text]:
        quote = self.take()
        while self.peek() not in (quote, ""):
            if self.take() == "\\":
                self.take()
        self.take()
        return []

    def _variable(self, name: str, line: int) -> list[Text]:
        found = self.around.lookup(name)
        if found is None:
            return [Text(GAP, (line,))]
        return item(found, 0, line) or [Text()]

    def _braced(self) -> list[Text]:
        line = self.line
        found = braced(self.to_bracket("{", "}"))
        gap = [Text(GAP, (line,))]
        if found is None:
            return gap
        value = self.around.lookup(found.name)
        if found.index in ("@", "*") or found.name in ("@", "*"):
            several = [Text(GAP, (line,), many=True)]
            if found.kind == "#":
                unsure = value is None or any(text.many for text in value)
                return gap if unsure or found.sign else [_number(len(value or ()), line)]
            if found.sign or found.kind == "!":
                return several
            if value is not None and found.index == "*":
                between = joint(self._separators(), line)
                return [Text.joined([part for text in value for part in (between, text)][1:])]
            return several if value is None else value
        if found.index is not None or (value and value[0].many):
            index = calculate(self._inner(found.index or "0", line).chars, self.number_of)
            value = None if index is None or value is None else item(value, index, line)
            if value is None or (value and value[0].chars == GAP):
                return gap
        if found.kind == "!":
            name = value[0].chars if value else ""
            return self._variable(name, line) if NAME.fullmatch(name) else gap
        if found.kind == "#":
            return [_number(len(value[0].chars) if value else 0, line)] if value is not None and _known(value) else gap
        return self._operated(found, value, line)

    def _operated(self, found: Braced, value: list[Text] | None, line: int) -> list[Text]:
        """Give `${X}` and `${X:-word}` and their relatives."""
        gap = [Text(GAP, (line,))]
        sign = found.sign
        if not sign:
            return gap if value is None else value[:1] or [Text()]
        if sign.strip(":") and sign.strip(":") in "-=+?":
            is_set = bool(value) if not sign.startswith(":") else bool(value and value[0].chars)
            if value and value[0].chars == GAP and sign.startswith(":"):
                # All of it is unknown: it may be empty.
                return gap
            if sign.endswith("+"):
                return [self._inner(found.word, line)] if is_set else [Text()]
            if is_set:
                return (value or [])[:1]
            if sign.endswith("?"):
                return gap
            if value is None and found.name.isdecimal():
                self.around.note(line, f"${found.name} is what the script is started with: taken as not given")
            default = self._inner(found.word, line)
            if value is None and NAME.fullmatch(found.name) and default.chars and default.known:
                shown = f"{found.name} is {default.chars[:80]} here"
                self.around.note(line, f"{shown}: its default, unless the shell that starts the script has it")
            if sign.endswith("="):
                self.around.assign(found.name, default)
            return [default]
        if value is None or not _known(value):
            return gap
        return [self._changed(found, value[0] if value else Text(), line) or gap[0]]

    def _changed(self, found: Braced, text: Text, line: int) -> Text | None:
        """Give `${X#pattern}`, `${X/a/b}`, `${X^^}`, `${X:1:2}`; None for what is not understood."""
        sign, word = found.sign, found.word
        if sign in CUTTING:
            return cut(text, sign, self._pattern(word, line), self.around.work)
        if sign in REPLACING:
            anchor = word[:1] if word[:1] in "/#%" and sign == "/" else ""
            pattern, _, new = word[len(anchor) :].partition("/")
            fresh = self._inner(new, line)
            unsure = "&" in fresh.chars or not fresh.known
            wanted = anchor + self._pattern(pattern, line)
            return None if unsure else replaced(text, sign, wanted, fresh, self.around.work)
        if sign in RAISING:
            return raised(text, sign) if not word else None
        numbers = [calculate(self._inner(one, line).chars, self.number_of) for one in word.split(":")]
        if None in numbers or len(numbers) > 2:
            return None
        return part_of(text, numbers[0] or 0, numbers[1] if len(numbers) == 2 else None)

    def _pattern(self, word: str, line: int) -> str:
        """Give a pattern; one with quotes or a backslash, which make * a star, is unknown."""
        return GAP if set(word) & set("'\"\\") else self._inner(word, line).chars

    def _inner(self, word: str, line: int) -> Text:
        if self.depth >= _DEEPEST:
            self.around.note(line, f"more than {_DEEPEST} expansions inside each other are not followed")
            return Text(GAP, (line,))
        inner = Expansion(script=word, around=self.around, line=line, depth=self.depth + 1)
        found: list[Text] = []
        while inner.peek():
            if inner.peek() in " \t\n;&|<>()":
                found.append(Text(inner.peek(), (inner.line,)))
                inner.take()
                continue
            parts, _ = inner._part(inner.peek())
            found += parts or ()
        return Text.joined(found)

    def _arithmetic(self) -> Text:
        line = self.line
        inner = self.to_bracket("(", ")")
        if not (inner.startswith("(") and inner.endswith(")")):
            return Text(GAP, (line,))
        number = self.calculated(inner[1:-1], line)
        return Text(GAP, (line,)) if number is None else _number(number, line)

    def calculated(self, expression: str, line: int) -> int | None:
        """Work out `$((...))` or `((...))`, and set what it sets; None where it cannot be known."""

        def assign(name: str, number: int) -> None:
            self.around.assign(name, _number(number, line))

        return calculate(self._inner(expression, line).chars, self.number_of, assign)

    def number_of(self, name: str, depth: int = 0) -> int | None:
        """Give a variable as a number; one that holds an expression counts as its value, an empty one as 0."""
        found = self.around.lookup(name)
        if found is None or depth > _DEEPEST:
            return None
        written = found[0].chars.strip() if found else ""
        return calculate(written, lambda inner: self.number_of(inner, depth + 1)) if GAP not in written else None


def _number(number: int, line: int) -> Text:
    return Text(str(number), (line,) * len(str(number)))


def _known(value: list[Text]) -> bool:
    return all(text.known for text in value[:1])
