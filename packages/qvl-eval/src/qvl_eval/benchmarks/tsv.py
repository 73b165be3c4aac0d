"""Read a benchmark's TSV file in VLMEvalKit's form: quoted fields, base64 images, images that point to another row.

All columns stay text and only an empty cell is missing, so that an option "None" or an index "007" is what it says;
`compat = "pandas"` repeats what upstream's reader makes of them. Pictures stay in the file until a row is asked.
"""

from __future__ import annotations

import ast
import base64
import binascii
import hashlib
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from qvl_core.errors import DataError, Problem
from qvl_core.input_file import printable

from qvl_eval.benchmarks.cell_types import Compat, are_integers, is_missing, shown_column
from qvl_eval.benchmarks.table import Cell, Record, TableFile

# A shorter cell is the index of the row that holds the picture; this is the file format's rule.
REFERENCE_CHARACTERS = 64
SHOWN_PROBLEMS = 20
_LISTED_COLUMNS = 20


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Where the pictures of a row are: the cell, and the line of the record that holds it."""

    file: TableFile = field(repr=False)
    cell: Cell
    line: int

    def read(self) -> tuple[bytes, ...]:
        """Give the bytes of the image files. Raises ValueError for what is not base64."""
        text = self.file.raw(self.cell)
        if text.startswith(b"[") and text.endswith(b"]"):
            return tuple(_decoded(member.encode()) for member in _members(text))
        return (_decoded(text),)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One question. `line` is where its record starts in the file; `columns` are all but `image`, "" where missing.

    `images` reads the bytes of the image files anew each time; `digests` are their sha256.
    """

    index: str
    line: int
    question: str
    answer: str
    category: str
    columns: Mapping[str, str]
    pictures: Pictures

    @property
    def images(self) -> tuple[bytes, ...]:
        return self.pictures.read()

    @cached_property
    def digests(self) -> tuple[str, ...]:
        return tuple(hashlib.sha256(image).hexdigest() for image in self.images)

    @property
    def options(self) -> dict[str, str]:
        """Give the options that are there, by their letters A to Z in alphabetical order."""
        return {name: self.columns[name] for name in string.ascii_uppercase if self.columns.get(name)}

    @property
    def split(self) -> str:
        return self.columns.get("split", "")

    @property
    def image_paths(self) -> tuple[str, ...]:
        """Give the names that the pictures have in the column `image_path`; nothing where there is none."""
        cell = self.columns.get("image_path", "")
        if cell.startswith("[") and cell.endswith("]"):
            return tuple(_members(cell.encode()))
        return (cell,) if cell else ()


@dataclass(frozen=True, kw_only=True)
class BenchmarkFile:
    """The rows of a file, the sha256 and md5 of its bytes, and the rows that were left out for want of a picture.

    `has_integer_index` tells whether every index is a whole number, as upstream's files write it.
    """

    path: Path
    digest: str
    md5: str
    rows: tuple[Row, ...]
    without_picture: tuple[str, ...] = ()
    has_integer_index: bool = False
    columns: tuple[str, ...] = ()


def read_benchmark(
    path: Path,
    *,
    columns: Iterable[str] = ("index", "image", "question", "answer"),
    compat: Compat = "none",
    is_checked: bool = False,
    is_hashed: bool = True,
) -> BenchmarkFile:
    """Give the checked rows of the file; `columns` must be there. A row without a picture is left out, and named.

    With `is_checked` pictures are not looked at: somebody has done it. Without `is_hashed` the file, which may have
    gigabytes, is read once less, and its `digest` and `md5` are empty. Raises DataError listing the broken rows: a
    missing or repeated column, a wrong number of cells, an empty or repeated index, an image that is neither base64 nor
    the index of a row with an image.
    """
    file = TableFile(path, is_hashed=is_hashed)
    records = file.records()
    header = _header(file, next(records, None), tuple(columns))
    problems: list[Problem] = []
    whole = []
    for record in records:
        if len(record.cells) == len(header):
            whole.append(record)
            continue
        message = f"has {len(record.cells)} cells; the header has {len(header)}"
        problems.append(Problem(where=f"{path}:{record.line}", message=message))
    rows, left_out = _rows(file, header, whole, compat, problems)
    if not is_checked:
        rows = _checked(file, rows, problems)
    if problems:
        raise DataError(_shortened(path, sorted(problems, key=_line_of)))
    if not rows:
        what = f"has no rows with a picture, {len(left_out)} without" if left_out else "has a header line and no rows"
        raise DataError(Problem(where=str(path), message=what))
    return BenchmarkFile(
        path=path,
        digest=file.sha256,
        md5=file.md5,
        rows=tuple(rows),
        without_picture=left_out,
        has_integer_index=are_integers([row.index for row in rows]),
        columns=header,
    )


def _header(file: TableFile, record: Record | None, wanted: Sequence[str]) -> tuple[str, ...]:
    header = tuple(file.text(cell, record.line) for cell in record.cells) if record is not None else ()
    where = f"{file.path}:1"
    missing = [name for name in wanted if name not in header]
    if missing:
        found = ", ".join(printable(name, 40) for name in header[:_LISTED_COLUMNS]) or "nothing"
        message = f"has no column {', '.join(missing)}; its first line has: {found}"
        raise DataError(Problem(where=where, message=message, fix="give a TSV file with tabs and a header line"))
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        message = f"has the column {', '.join(printable(name, 40) for name in twice)} more than once"
        raise DataError(Problem(where=where, message=message, fix="give each column a name of its own"))
    return header


def _rows(
    file: TableFile, header: Sequence[str], records: Sequence[Record], compat: Compat, problems: list[Problem]
) -> tuple[list[Row], tuple[str, ...]]:
    """Build the rows in file order; those with a problem are left out and told. Gives indexes without a picture too."""
    image = header.index("image")
    names = [name for name in header if name != "image"]
    places = [header.index(name) for name in names]
    texts = [[file.text(record.cells[place], record.line) for record in records] for place in places]
    # A column counts whole: upstream types it before it drops rows without a picture.
    shown = [shown_column(column, compat) for column in texts]
    rows: list[Row] = []
    lines: dict[str, int] = {}
    without: list[str] = []
    for number, record in enumerate(records):
        columns = {name: column[number] for name, column in zip(names, shown, strict=True)}
        index, where = columns["index"], f"{file.path}:{record.line}"
        if not index or index in lines:
            what = (
                f"the index {printable(index, 60)!r} occurs twice: on line {lines[index]} too"
                if index
                else ("the index is empty")
            )
            problems.append(Problem(where=where, key="index", message=what))
            continue
        lines[index] = record.line
        cell = record.cells[image]
        if len(cell) <= REFERENCE_CHARACTERS and is_missing(file.text(cell, record.line), compat):
            without.append(index)
            continue
        rows.append(
            Row(
                index=index,
                line=record.line,
                question=columns.get("question", ""),
                answer=columns.get("answer", ""),
                category=columns.get("category", ""),
                columns=columns,
                pictures=Pictures(file=file, cell=cell, line=record.line),
            )
        )
    return _with_references(file, rows, problems), tuple(without)


def _with_references(file: TableFile, rows: Sequence[Row], problems: list[Problem]) -> list[Row]:
    """Follow, in row order, the cells that name another row: one with a picture, or one above that was followed."""
    pictures = {row.index: row.pictures for row in rows}
    found = []
    for row in rows:
        if len(row.pictures.cell) > REFERENCE_CHARACTERS:
            found.append(row)
            continue
        name = file.text(row.pictures.cell, row.line)
        target = pictures.get(name)
        if target is None or len(target.cell) <= REFERENCE_CHARACTERS:
            why = "is no row with a picture" if target is None else "names another row itself and does not stand above"
            if target is not None and name == row.index:
                why = "is the row itself"
            message = (
                f"is {len(name)} characters long, so it has to be the index of a row with a picture; "
                f"{printable(name, REFERENCE_CHARACTERS)!r} {why}"
            )
            problems.append(_image_problem(row, message))
            continue
        pictures[row.index] = target
        found.append(replace(row, pictures=target))
    return found


def _checked(file: TableFile, rows: Sequence[Row], problems: list[Problem]) -> list[Row]:
    """Decode each cell once, keep the digests, and tell what is not base64."""
    digests: dict[int, tuple[str, ...]] = {}
    broken: set[int] = set()
    for row in rows:
        place = row.pictures.cell.start
        try:
            if place not in digests and place not in broken:
                digests[place] = row.digests
        except ValueError as error:
            broken.add(place)
            problems.append(_image_problem(row, str(error)))
        if place in digests:
            # What `cached_property` keeps of the first row with this cell counts for all.
            row.__dict__["digests"] = digests[place]
        try:
            _ = row.image_paths
        except ValueError as error:
            problems.append(Problem(where=f"{file.path}:{row.line}", key="image_path", message=str(error)))
    return list(rows)


def _image_problem(row: Row, message: str) -> Problem:
    where = f"{row.pictures.file.path}:{row.line}"
    return Problem(where=where, key=f"row {printable(row.index, 60)}, image", message=message)


def _members(cell: bytes) -> list[str]:
    """Give the texts of a list literal. Raises ValueError for anything else; nothing in it is ever run."""
    try:
        value = ast.literal_eval(cell.decode("utf-8", "replace"))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise ValueError("starts like a list but is not a list of texts") from None
    if not isinstance(value, list) or not value or not all(isinstance(member, str) for member in value):
        raise ValueError("is a list, but not of one or more texts")
    return value


def _decoded(cell: bytes) -> bytes:
    try:
        data = base64.b64decode(b"".join(cell.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        start = cell[:24].decode("utf-8", "replace")
        raise ValueError(f"is not base64: {error} (it starts with {printable(start)!r})") from None
    if not data:
        raise ValueError("is an empty picture")
    return data


def _line_of(problem: Problem) -> int:
    return int(problem.where.rpartition(":")[2])


def _shortened(path: Path, problems: list[Problem]) -> list[Problem]:
    more = len(problems) - SHOWN_PROBLEMS
    if more <= 0:
        return problems
    return [*problems[:SHOWN_PROBLEMS], Problem(where=str(path), message=f"and {more} more rows with problems")]
