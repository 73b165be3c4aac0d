"""Tables of texts out of .xlsx, .csv, .tsv, .json and .jsonl files, in the forms that evaluation tools write.

Every cell comes out as text; a missing one as "". Names of columns are in small letters, but for single capitals, which
are the options. MindSpeed-MM puts each name and each cell in double quotes; they are taken off.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qvl_core.errors import DataError, Problem
from qvl_core.input_file import open_regular_file, printable, read_regular_file

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

MAX_FILE_BYTES = 4 * 1024**3
_MAX_FIELD_CHARACTERS = 2**31 - 1
_CAPITAL = re.compile(r"[A-Z]")
_COLUMN_OF = {"l2-category": "subcategory", "l2_category": "subcategory"}
# Cells in which a tool that quotes every cell has written that there is none.
_QUOTED_MISSING = {"nan", "None", ""}

Cells = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One row of a table. `where` names file and line (of an .xlsx file the row) for messages."""

    where: str
    cells: Cells

    def text(self, name: str) -> str:
        """Give a cell as text, "" where it is missing."""
        return as_text(self.cells.get(name))


@dataclass(frozen=True, kw_only=True)
class Table:
    """The rows of a file, and the names of its columns in order. `notes` say what had to be mended."""

    path: Path
    names: tuple[str, ...]
    records: tuple[Record, ...]
    notes: tuple[str, ...] = ()


def read_table(path: Path) -> Table:
    """Read a table by the ending of its name. Raises DataError for another ending and for a file that is no table."""
    notes: list[str] = []
    records = tuple(stream_records(path, notes))
    names = tuple(dict.fromkeys(name for record in records for name in record.cells))
    return Table(path=path, names=names, records=records, notes=tuple(notes))


def stream_records(path: Path, notes: list[str]) -> Iterator[Record]:
    """Give the rows of a table; those of .csv and .tsv files one by one, so that gigabytes of pictures pass through.

    Appends to `notes`. Raises DataError as `read_table` does, when it comes to it.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        message = "has none of the endings that are read: " + ", ".join(_READERS)
        if path.suffix.lower() in (".pkl", ".pickle"):
            message = "is a pickle, which can run code when it is read"
        raise DataError(_problem(path, message, "give the tool's .xlsx, .csv, .tsv, .json or .jsonl file"))
    is_quoted: bool | None = None
    for number, cells in reader(path, notes):
        if cells:
            if is_quoted is None:
                is_quoted = all(map(_is_quoted, cells))
            yield Record(where=f"{path}:{number}", cells=_renamed(path, cells, is_quoted))


def as_text(value: object) -> str:
    """Give a cell as text: a whole number without a point, a missing one as ""."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _renamed(path: Path, cells: Cells, is_quoted: bool) -> Cells:
    renamed: dict[str, object] = {}
    for name, value in cells.items():
        if is_quoted:
            name = _unquoted(name)
            value = _unquoted(value) if isinstance(value, str) else value
        name = name if _CAPITAL.fullmatch(name) else name.lower()
        name = _COLUMN_OF.get(name, name)
        if is_quoted and name not in ("prediction", "answer", "question") and value in _QUOTED_MISSING:
            value = None
        if name in renamed:
            raise DataError(_problem(path, f"has two columns {printable(name, 40)!r}", "rename one of them"))
        renamed[name] = value
    return renamed


def _is_quoted(text: str) -> bool:
    return len(text) > 1 and text[0] == text[-1] == '"'


def _unquoted(text: str) -> str:
    return text[1:-1] if _is_quoted(text) else text


def _delimited(delimiter: str) -> Callable[[Path, list[str]], Iterator[tuple[int, Cells]]]:
    def read(path: Path, notes: list[str]) -> Iterator[tuple[int, Cells]]:
        limit = csv.field_size_limit(_MAX_FIELD_CHARACTERS)
        try:
            with (
                open_regular_file(path, error_type=DataError) as file,
                io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text,
            ):
                yield from _delimited_rows(path, csv.reader(text, delimiter=delimiter, strict=True))
        except UnicodeDecodeError:
            # The stream knows no place in the file.
            _decoded(path)
            raise
        finally:
            csv.field_size_limit(limit)

    return read


def _delimited_rows(path: Path, reader: CsvReader) -> Iterator[tuple[int, Cells]]:
    start = 1
    header: list[str] = []
    try:
        for cells in reader:
            if cells and not header:
                header = cells
                if len(set(header)) < len(header):
                    twice = next(name for name in header if header.count(name) > 1)
                    raise DataError(_problem(path, f"has two columns {printable(twice, 40)!r}", "rename one", start))
            elif cells:
                if len(cells) != len(header):
                    message = f"has {len(cells)} cells; the header has {len(header)}"
                    raise DataError(_problem(path, message, "save the table again", start))
                yield start, dict(zip(header, cells, strict=True))
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(_problem(path, f"is not a table: {error}", "check the quotes of this row", start)) from None


def _json(path: Path, notes: list[str]) -> Iterator[tuple[int, Cells]]:
    text = _decoded(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        try:
            return iter(list(_json_lines_of(path, text, notes)))
        except DataError:
            line = getattr(error, "lineno", 1)
            raise DataError(_problem(path, f"is not JSON: {error}", "give a whole file", line)) from None
    return iter([(1, cells) for cells in _json_records(path, value)])


def _json_records(path: Path, value: object) -> Iterable[Cells]:
    """Give the rows of a list of objects, of columns as a data frame writes them, or of replies by index."""
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        return value
    if isinstance(value, dict) and isinstance(rows := value.get("data"), list):
        # A data frame as rows, with the names of its columns or with a schema.
        names = value.get("columns")
        if isinstance(names, list) and all(isinstance(row, list) and len(row) == len(names) for row in rows):
            return [dict(zip(map(str, names), row, strict=True)) for row in rows]
        if all(isinstance(row, dict) for row in rows):
            return rows
    if isinstance(value, dict) and _quote_free(value, "prediction", dict):
        # A data frame: for each column the cells by row.
        keys = dict.fromkeys(key for column in value.values() if isinstance(column, dict) for key in column)
        return [
            {name: column[key] for name, column in value.items() if isinstance(column, dict) and key in column}
            for key in keys
        ]
    if isinstance(value, dict) and _quote_free(value, "prediction", list):
        columns = {name: column for name, column in value.items() if isinstance(column, list)}
        if len({len(column) for column in columns.values()}) == 1:
            return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    if isinstance(value, dict) and value and all(isinstance(row, dict) for row in value.values()):
        return [{"index": key, **row} for key, row in value.items()]
    if isinstance(value, dict) and value and not any(isinstance(cell, (dict, list)) for cell in value.values()):
        if "index" in value and "prediction" in value:
            return [value]
        return [{"index": key, "prediction": cell} for key, cell in value.items()]
    message = "holds neither a list of objects, nor columns with their cells, nor replies by their index"
    raise DataError(_problem(path, message, "give the tool's file of replies"))


def _quote_free(value: Mapping[str, object], name: str, kind: type) -> bool:
    return any(_unquoted(key).lower() == name and isinstance(cells, kind) for key, cells in value.items())


def _json_lines(path: Path, notes: list[str]) -> Iterator[tuple[int, Cells]]:
    return _json_lines_of(path, _decoded(path), notes)


def _json_lines_of(path: Path, text: str, notes: list[str]) -> Iterator[tuple[int, Cells]]:
    # Not splitlines: a reply may hold line separators that JSON leaves as they are.
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines) and number > 1:
                # Without its line end, as a killed run leaves it.
                notes.append(f"{path}:{number}: the last line is not whole and was left out")
                return
            raise DataError(_problem(path, f"is not JSON: {error}", "give a whole file", number)) from None
        if not isinstance(row, dict):
            raise DataError(_problem(path, "is not a JSON object", "one object a line", number))
        yield number, row


def _workbook(path: Path, notes: list[str]) -> Iterator[tuple[int, Cells]]:
    from qvl_eval.answer_files.workbook_reader import read_workbook

    return read_workbook(path, notes)


def _decoded(path: Path) -> str:
    data = read_regular_file(path, error_type=DataError, limit=MAX_FILE_BYTES)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"is not UTF-8 text: byte {data[error.start]:#04x} at position {error.start}"
        raise DataError(_problem(path, message, "save it as UTF-8", line)) from None


def _problem(path: Path, message: str, fix: str, line: int | None = None) -> Problem:
    where = printable(str(path)) if line is None else f"{printable(str(path))}:{line}"
    return Problem(where=where, message=printable(message, 400), fix=fix)


_READERS: Mapping[str, Callable[[Path, list[str]], Iterator[tuple[int, Cells]]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".xlsx": _workbook,
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
}
