"""Read a benchmark's TSV file in VLMEvalKit's form: quoted fields, base64 images, images that point to another row.

All columns stay text and only an empty cell is missing, so that an option "None" or an index "007" is what it says.
"""

from __future__ import annotations

import ast
import base64
import binascii
import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from qvl_core.errors import DataError, Problem
from qvl_core.input_file import printable, read_regular_file

MAX_FILE_BYTES = 8 * 1024**3
# One picture of tens of megabytes fits; the csv module's own limit is 131,072 characters, and C long sets the highest.
MAX_FIELD_CHARACTERS = 2**31 - 1
# A shorter cell is the index of the row that holds the picture; this is the file format's rule.
REFERENCE_CHARACTERS = 64
SHOWN_PROBLEMS = 20


@dataclass(frozen=True, kw_only=True)
class Row:
    """One question. `line` is where its record starts in the file; `images` are the bytes of image files."""

    index: str
    line: int
    question: str
    answer: str
    category: str
    images: tuple[bytes, ...]
    columns: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class BenchmarkFile:
    """The rows of a file and the sha256 of its bytes."""

    path: Path
    digest: str
    rows: tuple[Row, ...]


def read_benchmark(path: Path, *, columns: Iterable[str] = ("index", "image", "question", "answer")) -> BenchmarkFile:
    """Give the checked rows of the file; `columns` must be there.

    Raises DataError listing the broken rows: a missing column, a wrong number of cells, an empty or repeated index,
    an image that is neither base64 nor the index of a row with an image.
    """
    data = read_regular_file(path, error_type=DataError, limit=MAX_FILE_BYTES, fix="check [eval] data in the recipe")
    records = _records(path, data)
    header = records[0][1] if records else []
    missing = [name for name in columns if name not in header]
    if missing:
        found = ", ".join(printable(name, 40) for name in header[:20]) or "nothing"
        message = f"has no column {', '.join(missing)}; its first line has: {found}"
        raise DataError(Problem(where=f"{path}:1", message=message, fix="give a TSV file with tabs and a header line"))
    rows, problems = _rows(path, header, records[1:])
    if problems:
        raise DataError(_shortened(path, problems))
    if not rows:
        raise DataError(Problem(where=str(path), message="has a header line and no rows"))
    return BenchmarkFile(path=path, digest=hashlib.sha256(data).hexdigest(), rows=tuple(rows))


def _records(path: Path, data: bytes) -> list[tuple[int, list[str]]]:
    """Give (first line, cells) of each record, the header among them."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"is not UTF-8 text: byte {data[error.start]:#04x} at position {error.start}"
        raise DataError(Problem(where=f"{path}:{line}", message=message, fix="save it as UTF-8")) from None
    limit = csv.field_size_limit(MAX_FIELD_CHARACTERS)
    try:
        return list(_numbered(path, text))
    finally:
        csv.field_size_limit(limit)


def _numbered(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True)
    start = 1
    try:
        for cells in reader:
            if cells:
                yield start, cells
            start = reader.line_num + 1
    except csv.Error as error:
        message = f"is not a table: {error}"
        raise DataError(Problem(where=f"{path}:{start}", message=message, fix="check the quotes of this row")) from None


def _rows(path: Path, header: list[str], records: list[tuple[int, list[str]]]) -> tuple[list[Row], list[Problem]]:
    """Build the rows in file order; a row with a problem is left out and told."""
    rows: list[Row] = []
    problems: list[Problem] = []
    cells_of: dict[str, str] = {}
    for line, cells in records:
        where = f"{path}:{line}"
        if len(cells) != len(header):
            problems.append(Problem(where=where, message=f"has {len(cells)} cells; the header has {len(header)}"))
            continue
        columns = dict(zip(header, cells, strict=True))
        index = columns["index"]
        if not index or index in cells_of:
            what = f"the index {printable(index, 60)!r} occurs twice" if index else "the index is empty"
            problems.append(Problem(where=where, key="index", message=what))
            continue
        try:
            cells_of[index] = _resolved(columns.get("image", ""), cells_of)
            images = tuple(_decoded(cell) for cell in _image_cells(cells_of[index]))
        except ValueError as error:
            problems.append(Problem(where=where, key=f"row {printable(index, 60)}, image", message=str(error)))
            continue
        rows.append(
            Row(
                index=index,
                line=line,
                question=columns.get("question", ""),
                answer=columns.get("answer", ""),
                category=columns.get("category", ""),
                images=images,
                columns={name: cell for name, cell in columns.items() if name != "image"},
            )
        )
    return rows, problems


def _resolved(cell: str, earlier: Mapping[str, str]) -> str:
    """Follow a cell that names an earlier row to that row's picture."""
    if not cell:
        raise ValueError("is empty; every row needs a picture")
    if len(cell) > REFERENCE_CHARACTERS:
        return cell
    target = earlier.get(cell, "")
    if len(target) <= REFERENCE_CHARACTERS:
        shown = printable(cell, REFERENCE_CHARACTERS)
        raise ValueError(f"is {len(cell)} characters long, so it has to be the index of a row above; {shown!r} is none")
    return target


def _image_cells(cell: str) -> list[str]:
    """Give the base64 texts of a cell: itself, or the members of a list literal."""
    if not (cell.startswith("[") and cell.endswith("]")):
        return [cell]
    try:
        value = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise ValueError("starts like a list but is not a list of texts") from None
    if not isinstance(value, list) or not value or not all(isinstance(member, str) for member in value):
        raise ValueError("is a list, but not of one or more texts")
    return value


def _decoded(cell: str) -> bytes:
    try:
        return base64.b64decode("".join(cell.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"is not base64: {error} (it starts with {printable(cell[:24])!r})") from None


def _shortened(path: Path, problems: list[Problem]) -> list[Problem]:
    more = len(problems) - SHOWN_PROBLEMS
    if more <= 0:
        return problems
    return [*problems[:SHOWN_PROBLEMS], Problem(where=str(path), message=f"and {more} more rows with problems")]
