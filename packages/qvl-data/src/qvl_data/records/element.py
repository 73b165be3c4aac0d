"""One element of a file of records, and the places by which files give their elements again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvl_core.input_file import printable


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one record of a file is: bytes [offset, offset + size) of a JSON file, row `offset` of a Parquet file.

    `line` counts from 1 (Parquet: the row), `index` from 0.
    """

    offset: int
    size: int
    line: int
    index: int


@dataclass(frozen=True, kw_only=True)
class Block:
    """Neighbouring records of a file that are read together; `line` and `index` are those of the first of `rows`."""

    offset: int
    size: int
    line: int
    index: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class Unread:
    """Stands for a Parquet column that is not read because it holds bytes, not text; `type_name` is Arrow's."""

    type_name: str


@dataclass(frozen=True, kw_only=True)
class Element:
    """One element of a data file: its value, or what is wrong with it. `line` counts from 1, `index` from 0.

    `shares_line`: the element before it starts on the same line, so the line alone does not name it. `fix` may say how
    to mend an `error`.
    """

    line: int
    index: int
    value: Any = None
    error: str = ""
    fix: str = ""
    shares_line: bool = False
    place: Place | None = None

    def where(self, path: Path) -> str:
        """Name the element: `file:line`, or `file:line[index]` where several stand on one line."""
        place = f"{printable(str(path))}:{self.line}"
        return f"{place}[{self.index}]" if self.shares_line else place
