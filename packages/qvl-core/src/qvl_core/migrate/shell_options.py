"""The options of the program that a script starts, out of the words of its command."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from qvl_core.migrate.shell_text import GAP, LINES_OF_A_FILE, Text

_LAUNCHERS = ("msrun", "torchrun", "mpirun", "deepspeed", "accelerate")
_PROGRAMS = (*_LAUNCHERS, "python", "python3")
# Commands that start what their own words name.
_WRAPPERS = (
    *("nohup", "srun", "env", "exec", "eval", "command", "time", "numactl", "taskset", "nice", "ionice", "setsid"),
    *("stdbuf", "timeout", "sudo"),
)


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


def starting_command(commands: Sequence[list[Text]], notes: list[tuple[int, str]]) -> list[Text]:
    """Give the words of the command that starts the program, from its launcher on; further ones go to `notes`.

    A launcher's goes before others, one that names a *_vlm.py too; then the script's own, then the most options.
    """
    started = [words for words in map(_without_wrapper, commands) if words]
    chosen = max(started or commands, key=_likeliness, default=[])
    if not _likeliness(chosen)[-1]:
        return []
    least = min(_likeliness(chosen)[0], 1)
    for words in started:
        if words is not chosen and _likeliness(words)[0] >= least:
            line = chosen[0].line % LINES_OF_A_FILE
            notes.append((words[0].line, f"a further command starts a program; only the options of line {line} hold"))
    whole = next((words for words in commands if len(words) > len(chosen) and words[-len(chosen) :] == chosen), [])
    before = [word.chars for word in whole[: len(whole) - len(chosen)]]
    if any(word.startswith("-") for word in before):
        unread = " ".join(before)[:120].replace(GAP, "...")
        notes.append((whole[0].line, f"the words before {chosen[0].chars} are not read: {unread}"))
    return chosen


def _likeliness(words: list[Text]) -> tuple[int, bool, bool, int]:
    launches = any(_name(word) in _LAUNCHERS for word in words[:1])
    trains = any(word.chars.endswith("_vlm.py") for word in words)
    own = all(word.line < LINES_OF_A_FILE for word in words[:1])
    return launches + trains, launches, own, sum(word.chars.startswith("--") for word in words)


def _without_wrapper(words: list[Text]) -> list[Text]:
    """Give a command's words from msrun, torchrun, python, ... on; none where it starts no such program."""
    if not words or _name(words[0]) not in (*_WRAPPERS, *_PROGRAMS):
        return []
    return next((words[at:] for at, word in enumerate(words) if _name(word) in _PROGRAMS), [])


def _name(word: Text) -> str:
    return PurePath(word.chars).name


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
