"""What is wrong with one record, as it is found; and the words in which values are shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from qvl_core.errors import Problem
from qvl_core.input_file import printable

from qvl_data.records.element import Unread
from qvl_data.records.problem_list import Finding, Kind

_EXCERPT = 80


class Complaints:
    """Messages about one record, each with a fix where there is one."""

    def __init__(self) -> None:
        self._found: list[tuple[Kind, str, str]] = []
        self._kind: Kind = "record"

    def __len__(self) -> int:
        return len(self._found)

    def add(self, message: str, fix: str = "", *, kind: Kind | None = None) -> None:
        """Note one thing that is wrong, of the kind that is being looked at unless another is said."""
        self._found.append((kind or self._kind, message, fix))

    @contextmanager
    def about(self, kind: Kind) -> Iterator[None]:
        """Say of what kind the complaints inside the `with` block are."""
        before, self._kind = self._kind, kind
        try:
            yield
        finally:
            self._kind = before

    def findings(self, where: str, key: str) -> tuple[Finding, ...]:
        """Give everything as findings about one record."""
        return tuple(
            Finding(kind=kind, problem=Problem(where=where, key=key, message=message, fix=fix))
            for kind, message, fix in self._found
        )


def format_fix(name: str) -> str:
    """Say how another format is named, in a recipe and to the command that converts."""
    return f'format = "{name}" (qvl data convert: --format {name})'


def kind_of(value: Any) -> str:
    """Name the JSON kind of a value, with its article."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    if isinstance(value, Unread):
        return f"a column of bytes ({value.type_name})"
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")


def excerpt(value: Any) -> str:
    """Show a value, or its start, on one line."""
    if isinstance(value, (dict, list, Unread)):
        return kind_of(value)
    return repr(value) if isinstance(value, str) and len(value) <= _EXCERPT else printable(repr(value), _EXCERPT)


def names_of(names: Iterable[str]) -> str:
    """List names, or the first of them, on one line."""
    return printable(", ".join(sorted(names)), 2 * _EXCERPT) or "none"
