"""Read `--set KEY=VALUE`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import tomli

from qvl_core.errors import Problem
from qvl_core.input_file import printable

_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
SHOWN = 200
_FIX = "--set KEY=VALUE, for example --set layout.pp=2; --set KEY= takes a stated value back"


@dataclass(frozen=True, kw_only=True)
class Override:
    """One `--set`. `value` is None where the key is to be taken back: `--set layout.text_stages=`."""

    key: tuple[str, ...]
    value: Any
    text: str

    @property
    def where(self) -> str:
        return f"--set {printable(self.text, SHOWN)}"


def parse_overrides(texts: Iterable[str]) -> tuple[tuple[Override, ...], tuple[Problem, ...]]:
    """Give the overrides in order, and a Problem for each text that is none."""
    overrides, problems = [], []
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip()
        where = f"--set {printable(text, SHOWN)}"
        if not equals:
            problems.append(Problem(where=where, message="has no =", fix=_FIX))
        elif not _KEY.fullmatch(key) or key.count(".") > 8:
            problems.append(Problem(where=where, message=f"{key[:SHOWN]!r} is not a dotted key", fix=_FIX))
        elif key == "extends":
            problems.append(
                Problem(
                    where=where, key=key, message="can only be stated in the file", fix="make a recipe that extends it"
                )
            )
        else:
            overrides.append(Override(key=tuple(key.split(".")), value=_value(value), text=text))
    return tuple(overrides), tuple(problems)


def _value(text: str) -> Any:
    """Read a TOML value; what is none is taken as text, so that shells need no second pair of quotes."""
    if not text.strip():
        return None
    try:
        document = tomli.loads(f"value = {text}\n")
    except (ValueError, RecursionError):
        return text
    # A line break can smuggle in a second key; then the whole is text.
    return document["value"] if document.keys() == {"value"} else text
