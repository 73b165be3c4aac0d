"""The first sheet of an .xlsx file as rows of cells."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree.ElementTree import ParseError

from qvl_core.errors import DataError, Problem
from qvl_core.input_file import printable, read_regular_file

MAX_FILE_BYTES = 1024**3
# A sheet of 10,000 long replies is some 50 MB; what unpacks to more than this is no file of answers.
MAX_UNPACKED_BYTES = 4 * 1024**3
# How .xlsx writes characters that XML cannot hold, and the underscore before what only looks like that.
_ESCAPED = re.compile(r"_x(00[01][0-9A-Fa-f]|005[Ff]|[Ff]{3}[EeFf])_")
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, ParseError, EOFError, OSError),
    *(KeyError, ValueError, TypeError, AttributeError, IndexError, NotImplementedError, RuntimeError),
)
_FIX = "open it in a spreadsheet program and save it as .xlsx, or give the .jsonl file"


def read_workbook(path: Path, notes: list[str]) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Give (row, cells by the names of the first row). Formulas come as the text they were typed as.

    Appends to `notes` what the reader has to know of. Raises DataError for a file that is no workbook.
    """
    data = read_regular_file(path, error_type=DataError, limit=MAX_FILE_BYTES)
    try:
        rows = _rows(path, data)
    except _BROKEN as error:
        message = f"is not an .xlsx file that can be read: {printable(str(error) or type(error).__name__)}"
        raise DataError(Problem(where=printable(str(path)), message=message, fix=_FIX)) from None
    names = {column: str(name) for column, name in enumerate(rows[0] if rows else ()) if name not in (None, "")}
    replies = [name for name in names.values() if name.strip('"').lower() == "prediction"]
    formulas = 0
    found: list[tuple[int, Mapping[str, object]]] = []
    for number, row in enumerate(rows[1:], 2):
        if all(value is None for value in row):
            continue
        cells = {name: row[column] if column < len(row) else None for column, name in names.items()}
        formulas += any(str(cells[name]).startswith("=") for name in replies)
        found.append((number, {name: _unescaped(value) for name, value in cells.items()}))
    if formulas:
        notes.append(f"{path}: {formulas} replies start with =; they are scored as they were typed")
    return iter(found)


def _rows(path: Path, data: bytes) -> list[tuple[object, ...]]:
    from openpyxl import load_workbook

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > MAX_UNPACKED_BYTES:
        raise ValueError(f"it unpacks to {unpacked:,} bytes")
    with warnings.catch_warnings():
        # Of styles and extensions that are of no use here.
        warnings.simplefilter("ignore")
        book = load_workbook(io.BytesIO(data), read_only=True)
        try:
            sheet = book.worksheets[0]
            # Some writers note a wrong size, and the reader would believe it.
            sheet.reset_dimensions()
            return [tuple(row) for row in sheet.iter_rows(values_only=True)]
        finally:
            book.close()


def _unescaped(value: object) -> object:
    if not isinstance(value, str) or "_x" not in value:
        return value
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), value)
