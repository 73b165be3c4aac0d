"""The options of the program that a script starts, out of the words of its command."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from qvl_core.migrate.shell_text import GAP, Text

_PROGRAMS = ("msrun", "torchrun", "python", "python3", "mpirun", "deepspeed", "accelerate")


@dataclass(frozen=True, kw_only=True)
class Option:
    """`--name value ...` of the started program. `line` is the option's, `value_lines` where its values are stated."""

    name: str
    values: tuple[str, ...]
    line: int
    value_lines: tuple[int, ...]

    @property
    def known(self) -> bool:
        return GAP not in "".join(self.values)


@dataclass(kw_only=True)
class Command:
    """A command's program (a .py file; "" for none) and options; `notes` are (line, remark)."""

    program: str = ""
    options: list[Option] = field(default_factory=list)
    notes: list[tuple[int, str]] = field(default_factory=list)


def starting_command(commands: Sequence[list[Text]]) -> list[Text]:
    """Give the words of the command that starts the program: a launcher's, or the one with the most options."""
    started = [words for words in commands if words and PurePath(words[0].chars).name in _PROGRAMS]
    counted = [(sum(word.chars.startswith("--") for word in words), words) for words in started or commands]
    count, words = max(counted, key=lambda pair: pair[0], default=(0, []))
    return words if count else []


def read_command(words: list[Text]) -> Command:
    """Read options and program out of a command's words."""
    found = Command()
    name, line, values = "", 0, list[Text]()
    for word in _without_comments(words, found.notes):
        if re.match(r"--[A-Za-z]", word.chars):
            found.options += _finished(name, line, values)
            name, equals, value = word.chars[2:].partition("=")
            line, values = word.line, []
            if equals:
                values = [Text(value, word.lines[-len(value) :] if value else (word.line,))]
        elif name:
            values.append(word)
        if word.chars.endswith(".py") and not found.program:
            found.program = PurePath(word.chars).name
            if name and len(values) > 1:
                # The program's file is not a value of msrun's last option.
                values.pop()
    found.options += _finished(name, line, values)
    return found


def _finished(name: str, line: int, values: list[Text]) -> Iterator[Option]:
    if name:
        texts = tuple(value.chars for value in values)
        # argparse takes underscores and hyphens for different options; msrun's are written with either.
        lines = tuple(value.line or line for value in values)
        yield Option(name=name.replace("_", "-"), values=texts, line=line, value_lines=lines)


def _without_comments(words: list[Text], notes: list[tuple[int, str]]) -> Iterator[Text]:
    """Leave out backslashes and comments inside a quoted list of options: bash would pass them on as arguments."""
    comment_line = 0
    for word in words:
        if word.chars.startswith("#"):
            if word.line != comment_line:
                notes.append((word.line, "a comment stands inside the quotes: bash passes its words on as arguments"))
            comment_line = word.line
        if word.chars == "\\" or (comment_line and word.line == comment_line):
            continue
        yield word
