"""What `$(...)` prints, where it only takes known texts or a file beside the script apart; nothing is run.

Scripts count machines and name the first one with `cat hostfile | wc -l` and `head -n1 hostfile | awk '{print $1}'`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from qvl_core.migrate.shell_arithmetic import calculate
from qvl_core.migrate.shell_cursor import Surroundings
from qvl_core.migrate.shell_text import GAP, Text
from qvl_core.migrate.shell_words import Expansion

Beside = Callable[[str], "str | None"]

_DOCUMENT = re.compile(r"\s*cat\s*<<(-?)[ \t]*(['\"]?)(\w+)\2[ \t]*\r?\n(.*?)(?<=\n)[ \t]*\3\s*", re.DOTALL)
_PRINT = re.compile(r"\s*(?:NR\s*==\s*(\d+)\s*)?\{\s*print\s*(?:\$(\d+))?\s*;?\s*\}\s*")
_COUNT = re.compile(r"\s*END\s*\{\s*print\s+(?:NR|FNR)\s*;?\s*\}\s*")
# The patterns of grep that people count lines with; all mean the same in Python.
_PATTERNS = ("", ".", "^#", "^$", "^", "[0-9]")


def printed(inner: str, line: int, around: Surroundings, beside: Beside) -> Text | None:
    """Give what the commands inside `$(...)` print, without line ends behind it; None where that is not known."""
    if document := _DOCUMENT.fullmatch(inner):
        whole = _document(document, line + inner.count("\n", 0, document.start(4)), around)
        kept = len(whole.chars.rstrip("\n"))
        return Text(whole.chars[:kept], whole.lines[:kept])
    files: list[str] = []
    uncounted: list[str] = []

    def read(path: str) -> str | None:
        files.append(PurePosixPath(path).name)
        return None if path.startswith("/") or GAP in path else beside(files[-1])

    stages = _stages(inner, line, around)
    output: str | None = ""
    for words in stages or ():
        output = _stage(words, output or "", read, uncounted)
        if output is None:
            return None
    if not stages or output is None:
        return None
    if files:
        around.note(line, f"counted or read in {', '.join(dict.fromkeys(files))}, which lies beside the script")
    if uncounted and files:
        around.note(line, f"{files[-1]} has no line end behind its last line, which wc -l does not count")
    chars = output.rstrip("\n")
    return Text(chars, (line,) * len(chars))


def _document(found: re.Match[str], line: int, around: Surroundings) -> Text:
    body = re.sub(r"(?m)^\t+", "", found[4]) if found[1] else found[4]
    if found[2]:
        shell = Expansion(script=body, around=around, line=line)
        return shell.document(expanded=False)
    return Expansion(script=body, around=around, line=line).document(expanded=True)


def _stages(inner: str, line: int, around: Surroundings) -> list[list[str]] | None:
    """Split a pipeline into the known words of its commands; None for anything else than a plain pipeline."""
    shell = Expansion(script=inner, around=around, line=line)
    stages: list[list[str]] = [[]]
    while True:
        shell.skip_blanks()
        char = shell.peek()
        if not char:
            break
        if char == "|" and shell.peek(1) != "|":
            shell.take()
            stages.append([])
        elif char == "<" and shell.peek(1) not in ("<", "("):
            # `wc -l < FILE` is `cat FILE | wc -l`.
            shell.take()
            word = shell.word()
            if word is None or len(word.fields) != 1 or len(stages) > 1:
                return None
            stages.insert(0, ["cat", word.fields[0].chars])
        elif found := re.compile(r"2>\s*(?:/dev/null|&1)(?=[\s|]|\Z)").match(inner, shell.at):
            shell.step(len(found[0]))
        elif (word := shell.word()) is not None:
            stages[-1] += [text.chars for text in word.fields]
        else:
            return None
    return stages if all(stages) and not any(GAP in word for words in stages for word in words) else None


def _stage(words: Sequence[str], given: str, read: Callable[[str], str | None], uncounted: list[str]) -> str | None:
    """Give what one command prints of what it is given; last lines that `wc -l` leaves out go to `uncounted`."""
    name, rest = words[0], list(words[1:])
    if name == "echo":
        return None if (rest[:1] and rest[0].startswith("-")) or "\\" in "".join(rest) else " ".join(rest) + "\n"
    if name == "expr" and len(rest) == 3 and rest[1] in ("+", "-", "*", "/", "%"):
        number = calculate(" ".join(rest), lambda name: None)
        return None if number is None else f"{number}\n"
    if name == "bc" and not rest and re.fullmatch(r"[\d+*\s-]+", given):
        number = calculate(given, lambda name: None)
        return None if number is None else f"{number}\n"
    if name in ("basename", "dirname") and len(rest) == 1 and rest[0].strip("/"):
        path = PurePosixPath(rest[0])
        return f"{path.name if name == 'basename' else path.parent}\n"
    return _filtered(name, rest, given, read, uncounted)


def _filtered(
    name: str, rest: list[str], given: str, read: Callable[[str], str | None], uncounted: list[str]
) -> str | None:
    flags = [word for word in rest if word.startswith("-") and word != "-"]
    others = [word for word in rest if word not in flags]
    if name in ("head", "tail"):
        joined = re.fullmatch(r"-n?(\d+)", "".join(flags)) if len(flags) == 1 else None
        if flags == ["-n"] and others and others[0].isdecimal():
            return _lines(name, int(others[0]), _text(others[1:], given, read))
        return _lines(name, int(joined[1]), _text(others, given, read)) if joined else None
    if name == "cat" and not flags:
        return _text(others, given, read)
    if name == "wc" and flags == ["-l"]:
        text = _text(others, given, read)
        if text and not text.endswith("\n"):
            uncounted.append(text.splitlines()[-1])
        return None if text is None else f"{text.count(chr(10))}{' ' + others[0] if others else ''}\n"
    if name == "sed" and flags == ["-n"] and others and re.fullmatch(r"[1-9]\d*p", others[0]):
        text = _text(others[1:], given, read)
        return None if text is None else _joined(text.splitlines()[int(others[0][:-1]) - 1 : int(others[0][:-1])])
    if name == "awk" and not flags and others:
        return _awk(others[0], _text(others[1:], given, read))
    if name == "grep" and others and others[0] in _PATTERNS and set("".join(flags)) <= set("-cv"):
        return _grep("".join(flags), others[0], _text(others[1:], given, read))
    if name == "sort" and flags in ([], ["-u"]):
        text = _text(others, given, read)
        kept = set if flags else list
        return None if text is None or not text.isascii() else _joined(sorted(kept(text.splitlines())))
    if name in ("xargs", "uniq") and not rest:
        return f"{' '.join(given.split())}\n" if name == "xargs" and not set(given) & set("'\"\\") else None
    return None


def _text(paths: Sequence[str], given: str, read: Callable[[str], str | None]) -> str | None:
    texts = [read(path) for path in paths]
    # A last line without its end: cat joins it to the next file's first one, awk and sort do not.
    if None in texts or any(text and not text.endswith("\n") for text in texts[:-1]):
        return None
    return "".join(text or "" for text in texts) if texts else given


def _lines(name: str, count: int, text: str | None) -> str | None:
    if text is None:
        return None
    lines = text.splitlines(keepends=True)
    return "".join(lines[:count] if name == "head" else lines[len(lines) - count :] if count else [])


def _joined(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _awk(program: str, text: str | None) -> str | None:
    if text is None:
        return None
    lines = text.splitlines()
    if _COUNT.fullmatch(program):
        return f"{len(lines)}\n"
    found = _PRINT.fullmatch(program)
    if found is None:
        return None
    chosen = lines[int(found[1]) - 1 : int(found[1])] if found[1] else lines
    field = int(found[2] or 0)
    parts = [["", *line.split()][field : field + 1] if field else [line] for line in chosen]
    return _joined(["".join(part) for part in parts])


def _grep(flags: str, pattern: str, text: str | None) -> str | None:
    if text is None:
        return None
    lines = [line for line in text.splitlines() if bool(re.search(pattern, line)) != ("v" in flags)]
    return f"{len(lines)}\n" if "c" in flags else _joined(lines)
