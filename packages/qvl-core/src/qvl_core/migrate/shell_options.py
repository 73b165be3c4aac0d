"""The options of the program that a script starts, out of the words of its command."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath

from qvl_core.migrate.script_facts import Option
from qvl_core.migrate.shell_state import Start
from qvl_core.migrate.shell_text import GAP, LINES_OF_A_FILE, Text

_LAUNCHERS = ("msrun", "torchrun", "mpirun", "deepspeed", "accelerate")
_PROGRAMS = (*_LAUNCHERS, "python", "python3")
# Commands that start what their own words name.
_WRAPPERS = (
    *("nohup", "srun", "env", "exec", "eval", "command", "time", "numactl", "taskset", "nice", "ionice", "setsid"),
    *("stdbuf", "timeout", "sudo"),
)
# Their options with a name behind them, which may be that of a program: a partition, a job, a user.
_NAMING = {
    "srun": (
        *("-p", "-J", "-A", "-q", "-C", "-w", "-x", "--partition", "--job-name", "--account", "--qos"),
        *("--constraint", "--nodelist", "--exclude"),
    ),
    "sudo": ("-u", "-g", "--user", "--group"),
    "exec": ("-a",),
}
SHELLS = ("bash", "sh")
# What these start is elsewhere, or in a text of theirs: it is not read.
REMOTE = ("ssh", "pdsh", "ansible", "docker", "kubectl", "sbatch", "screen", "tmux", "at", "xargs", "parallel")
# Options without a value: a text of unknown value behind one of them is something else.
_FLAG = re.compile(
    r"(use|no|overlap|calculate|disable|enable|untie|add|group|variable|apply)[-_]|"
    r"(bf16|fp16|swiglu|finetune|swap-attention|log-tps|log-throughput|recompute-activations|sequence-parallel)\Z"
)
_SEVERAL = ("lora-target-modules", "lr-scale-modules")


@dataclass(kw_only=True)
class Command:
    """A command's program (a .py file; "" for none) and options; `notes` are (line, remark)."""

    program: str = ""
    options: list[Option] = field(default_factory=list)
    notes: list[tuple[int, str]] = field(default_factory=list)


def choose_start(starts: Sequence[Start], notes: list[tuple[int, str]]) -> Start | None:
    """Give the command that starts the program, from its launcher on; further ones go to `notes`.

    A launcher's goes before others, one that names a *_vlm.py too; then the script's own, then the most options.
    """
    able = [replace(start, words=started(start.words)) for start in starts if started(start.words)]
    chosen = max(able or starts, key=lambda start: _likeliness(start.words), default=None)
    if chosen is None or not _likeliness(chosen.words)[-1]:
        return None
    least = min(_likeliness(chosen.words)[0], 1)
    line = chosen.words[0].line % LINES_OF_A_FILE
    for start in able:
        if start is not chosen and _likeliness(start.words)[0] >= least:
            text = f"a further command starts a program; only the options of line {line} hold"
            notes.append((start.words[0].line, text))
    if not able:
        remark = "nothing that starts msrun, torchrun or python was found; the options of this command are taken"
        notes.append((chosen.words[0].line, remark))
    else:
        whole = next(one.words for one in starts if one.words[-len(chosen.words) :] == chosen.words)
        before = [word.chars for word in whole[: len(whole) - len(chosen.words)]]
        if any(word.startswith("-") for word in before):
            unread = " ".join(before)[:120].replace(GAP, "...")
            notes.append((whole[0].line, f"the words before {chosen.words[0].chars} are not read: {unread}"))
    return chosen


def _likeliness(words: list[Text]) -> tuple[int, bool, bool, int]:
    launches = any(_name(word) in _LAUNCHERS for word in words[:1])
    trains = any(word.chars.endswith("_vlm.py") for word in words)
    own = all(word.line < LINES_OF_A_FILE for word in words[:1])
    return launches + trains, launches, own, sum(word.chars.startswith("--") for word in words)


def started(words: list[Text]) -> list[Text]:
    """Give a command's words from msrun, torchrun, python, ... on; none where it starts no such program."""
    if not words or _name(words[0]) not in (*_WRAPPERS, *_PROGRAMS):
        return []
    return _from(words, _PROGRAMS)


def behind_wrappers(words: list[Text]) -> list[Text]:
    """Give a command's words from the shell, the program or the far machine on that nohup, env, ... start."""
    if not words or _name(words[0]) not in _WRAPPERS:
        return words
    return _from(words, (*SHELLS, *REMOTE, *_PROGRAMS))


def _from(words: list[Text], programs: Sequence[str]) -> list[Text]:
    """Give the words from the first of these programs on; what an option or a variable is given is none."""
    wrapper = before = ""
    for at, word in enumerate(words):
        name = _name(word)
        if before not in _NAMING.get(wrapper, ()) and not re.match(r"[-\w]+=", word.chars):
            if name in programs:
                return words[at:]
            wrapper = name if name in _WRAPPERS else wrapper
        before = word.chars
    return []


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
        elif word.chars == GAP and (not name or (values and name not in _SEVERAL) or _FLAG.match(name)):
            found.notes.append((word.line, "a part of the command is not known: options that stand in it are not read"))
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
