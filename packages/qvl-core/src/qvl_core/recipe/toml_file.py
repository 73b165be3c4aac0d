"""Read one TOML file: its values and the line of each key. Whatever is wrong with it ends as a Problem."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli

from qvl_core.errors import Problem, RecipeError
from qvl_core.input_file import printable
from qvl_core.recipe.positions import KeyPath, key_lines

SIZE_LIMIT = 1024**2
# A recipe has four levels; far below where walking a document would exhaust the stack.
DEPTH_LIMIT = 32
_INTEGERS = (-(2**63), 2**63 - 1)
_AT_LINE = re.compile(r" \(at line (\d+), column (\d+)\)$| \(at end of document\)$")
_LONG_NUMBER = re.compile(r"[0-9_]{300,}")
_KEY_PART = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_LONG_KEY = re.compile(rf"(?:^|[{{,])[ \t]*\[{{0,2}}(?:[ \t]*{_KEY_PART}[ \t]*\.){{{DEPTH_LIMIT}}}", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class TomlFile:
    """A parsed file. `path` is as the user gave it; `lines` maps key paths to lines; `problems` concern its values."""

    path: str
    values: dict[str, Any]
    lines: dict[KeyPath, int] = field(repr=False)

    def where(self, key: KeyPath) -> str:
        """Give `file:line` of a key, or of the nearest table around it that is stated."""
        return f"{self.path}:{line}" if (line := self.line(key)) else self.path

    def line(self, key: KeyPath) -> int:
        """Give the line of a key or of the nearest table around it; 0 where there is none."""
        for end in range(len(key), 0, -1):
            if key[:end] in self.lines:
                return self.lines[key[:end]]
        return 0


def read_toml(path: str) -> TomlFile:
    """Read a file of at most 1 MiB. Raises RecipeError with one Problem if it cannot be read or is not TOML."""
    text = _read_text(path)
    values = _parse(text, path)
    return TomlFile(path=path, values=values, lines=key_lines(text))


def odd_values(values: Any) -> Iterator[tuple[KeyPath, str]]:
    """Find values that TOML readers accept and recipes do not: infinities, NaN, integers past 64 bits, NUL in text."""
    pending: list[tuple[KeyPath, Any]] = [((), values)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, dict):
            pending += [((*path, key), item) for key, item in value.items()]
        elif isinstance(value, list):
            pending += [((*path, index), item) for index, item in enumerate(value)]
        elif isinstance(value, float) and not math.isfinite(value):
            yield path, f"is {value}; it has to be a finite number"
        elif isinstance(value, int) and not _INTEGERS[0] <= value <= _INTEGERS[1]:
            yield path, "is an integer that does not fit into 64 bits"
        elif isinstance(value, str) and "\0" in value:
            yield path, "holds a NUL character; no path and no variable can"


def _read_text(path: str) -> str:
    """Give the file's text. Refuses what is not a regular file before opening it: a FIFO would hang."""
    shown = printable(path, 300)
    file = Path(path)
    try:
        if file.is_dir():
            raise _refusal(
                shown, "is a folder, not a recipe", f"give a file, for example {shown.rstrip('/')}/NAME.toml"
            )
        if file.exists() and not file.is_file():
            raise _refusal(shown, "is not a regular file", "give a .toml file")
        with file.open("rb") as stream:
            content = stream.read(SIZE_LIMIT + 1)
    except FileNotFoundError:
        raise _refusal(shown, "does not exist", "`qvl recipes` lists the recipes that are here") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _refusal(shown, f"cannot be read: {reason}", "check the path and its permissions") from None
    if len(content) > SIZE_LIMIT:
        raise _refusal(shown, f"is larger than {SIZE_LIMIT} bytes; no recipe is", "give a recipe, not a data file")
    try:
        # Some editors put a byte order mark before UTF-8 text; it says nothing.
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"is not UTF-8: byte {error.start} is 0x{content[error.start]:02x}"
        raise _refusal(f"{shown}:{line}", message, "save the file as UTF-8") from None


def _parse(text: str, path: str) -> dict[str, Any]:
    # Dotted keys nest without brackets and cost the reader quadratic time: found before it runs.
    if long_key := _LONG_KEY.search(text):
        line = text.count("\n", 0, long_key.start()) + 1
        raise _refusal(
            f"{path}:{line}", f"a key is nested more than {DEPTH_LIMIT} levels deep", "recipes have 4 levels"
        )
    try:
        values = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise _syntax_problem(error, text, path) from None
    except RecursionError:
        raise _refusal(path, "brackets are nested too deeply to be read", "recipes have 4 levels") from None
    except ValueError as error:
        long_number = _LONG_NUMBER.search(text)
        line = text.count("\n", 0, long_number.start()) + 1 if long_number else 0
        where = f"{path}:{line}" if line else path
        reason = f"holds a number of {len(long_number[0])} digits" if long_number else f"is not TOML: {error}"
        raise _refusal(where, reason, "integers have at most 64 bits") from None
    if (depth := _depth(values)) > DEPTH_LIMIT:
        raise _refusal(path, f"is nested {depth} levels deep", "recipes have 4 levels")
    return values


def _syntax_problem(error: tomli.TOMLDecodeError, text: str, path: str) -> RecipeError:
    message = str(error)
    found = _AT_LINE.search(message)
    reason = message[: found.start()] if found else message
    if not found:
        return _refusal(path, f"is not TOML: {reason}", "see https://toml.io")
    line = int(found.group(1)) if found.group(1) else text.rstrip("\n").count("\n") + 1
    place = f"column {found.group(2)}" if found.group(2) else "end of the file"
    fix = "text needs quotes, a table needs [name]; the rules are at https://toml.io"
    return _refusal(f"{path}:{line}", f"is not TOML, {place}: {reason}", fix)


def _depth(values: dict[str, Any]) -> int:
    deepest = 0
    pending: list[tuple[int, Any]] = [(1, values)]
    while pending:
        depth, value = pending.pop()
        deepest = max(deepest, depth)
        if isinstance(value, dict):
            pending += [(depth + 1, item) for item in value.values()]
        elif isinstance(value, list):
            pending += [(depth + 1, item) for item in value]
    return deepest


def _refusal(where: str, message: str, fix: str) -> RecipeError:
    return RecipeError(Problem(where=where, message=message, fix=fix))
