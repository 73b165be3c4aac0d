"""A tab-separated file as records of cells that are known by their place, so that gigabytes of pictures stay on disk.

The form is that of data-frame libraries: UTF-8, a header line, fields quoted with `"` where they hold tabs, line ends
or quotes, which are doubled. Blank lines are skipped. A field may be of any length.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from qvl_core.errors import DataError, InputChangedError, Problem
from qvl_core.input_file import open_regular_file, printable

_BOM = b"\xef\xbb\xbf"
_PIECE = 1 << 22


@dataclass(frozen=True)
class Cell:
    """The place of a field's characters in the file, its outer quotes left out. Not decoded."""

    start: int
    end: int
    is_quoted: bool

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, kw_only=True)
class Record:
    """One row: the line on which it starts, counted from 1, and its cells."""

    line: int
    cells: tuple[Cell, ...]


class TableFile:
    """An open file whose cells are read by their place. Safe to use from several threads.

    `sha256` and `md5` are those of its bytes, empty where it is not hashed. The file stays the one that was opened,
    also where its name is given to another; one that is written to meanwhile is an InputChangedError.
    """

    sha256 = md5 = ""

    def __init__(self, path: Path, *, is_hashed: bool = True) -> None:
        """Open the file; to hash it, it is read once. Raises DataError for anything but a regular file."""
        self.path = path
        self._file: BinaryIO = open_regular_file(path, error_type=DataError, fix="check [eval] data in the recipe")
        self._state = _state(self._file)
        if is_hashed:
            self._hash()

    def _hash(self) -> None:
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        while piece := self._file.read(_PIECE):
            sha256.update(piece)
            md5.update(piece)
        self.sha256, self.md5 = sha256.hexdigest(), md5.hexdigest()

    def close(self) -> None:
        """Let go of the file; no cell can be read any more."""
        self._file.close()

    def records(self) -> Iterator[Record]:
        """Give every record in order, the header first. Raises DataError for a quote that has no end, or no use."""
        if not self._state[0]:
            return
        with mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            position = len(_BOM) if data[: len(_BOM)] == _BOM else 0
            line = 1
            while position < len(data):
                cells, position, lines = self._record(data, position, line)
                # A line without a character is no record.
                if len(cells) > 1 or len(cells[0]) or cells[0].is_quoted:
                    yield Record(line=line, cells=tuple(cells))
                line += lines

    def raw(self, cell: Cell) -> bytes:
        """Give the bytes of a cell, doubled quotes made one. Raises InputChangedError for a file written meanwhile."""
        self.require_unchanged()
        data = os.pread(self._file.fileno(), len(cell), cell.start)
        while len(data) < len(cell):
            more = os.pread(self._file.fileno(), len(cell) - len(data), cell.start + len(data))
            if not more:
                raise self._changed()
            data += more
        return data.replace(b'""', b'"') if cell.is_quoted else data

    def text(self, cell: Cell, line: int) -> str:
        """Give the text of a cell. Raises DataError for one that is not UTF-8."""
        data = self.raw(cell)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            at = line + data.count(b"\n", 0, error.start)
            message = f"is not UTF-8 text: byte {data[error.start]:#04x} in the row that starts on line {line}"
            raise DataError(Problem(where=f"{self.path}:{at}", message=message, fix="save it as UTF-8")) from None

    def require_unchanged(self) -> None:
        """Raise InputChangedError if the file was written to since it was opened."""
        if _state(self._file) != self._state:
            raise self._changed()

    def _changed(self) -> InputChangedError:
        return InputChangedError(f"{printable(str(self.path))}: was written to while it was read; run it again")

    def _record(self, data: mmap.mmap, start: int, line: int) -> tuple[list[Cell], int, int]:
        """Give the cells from `start` on, where the next record starts, and how many lines further that is."""
        cells: list[Cell] = []
        position = start
        newline = -1
        while True:
            cell = self._quoted(data, position, line) if data[position : position + 1] == b'"' else None
            if cell is None:
                if newline < position:
                    # Once for all plain cells of a record: one of them may be a picture of many megabytes.
                    newline = _found(data, b"\n", position, len(data))
                end = _found(data, b"\r", position, _found(data, b"\t", position, newline))
                cell = Cell(position, end, False)
            cells.append(cell)
            after = cell.end + cell.is_quoted
            mark = data[after : after + 1]
            if mark == b"\t":
                position = after + 1
                continue
            # What ends the record: the file, or one of the three line ends.
            end = after + (2 if data[after : after + 2] == b"\r\n" else len(mark))
            return cells, end, _line_ends(data[start:end]) if any(one.is_quoted for one in cells) else 1

    def _quoted(self, data: mmap.mmap, start: int, line: int) -> Cell:
        position = start + 1
        while (end := data.find(b'"', position)) >= 0:
            follows = data[end + 1 : end + 2]
            if follows == b'"':
                position = end + 2
                continue
            if follows in (b"", b"\t", b"\r", b"\n"):
                return Cell(start + 1, end, True)
            message = f"is not a table: behind a closing quote stands {follows!r}, not a tab"
            raise DataError(self._quote_problem(line, message))
        raise DataError(self._quote_problem(line, "is not a table: a quote is opened in this row and never closed"))

    def _quote_problem(self, line: int, message: str) -> Problem:
        return Problem(where=f"{self.path}:{line}", message=message, fix="check the quotes of this row")


def _found(data: mmap.mmap, mark: bytes, start: int, end: int) -> int:
    """Give the first place of a mark, `end` where there is none before."""
    place = data.find(mark, start, end)
    return end if place < 0 else place


def _line_ends(data: bytes) -> int:
    return data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")


def _state(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns
