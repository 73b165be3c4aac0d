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
MAX_UNPACKED_BYTES = 1024**3
_MAX_COLUMNS = 1000
# How .xlsx writes characters that XML cannot hold, and the underscore before what only looks like that. In a table of
# shared strings openpyxl has taken that underscore off already: there the text _x000B_ comes out as the character.
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
        found = list(_named_rows(data))
    except _BROKEN as error:
        message = f"is not an .xlsx file that can be read: {printable(str(error) or type(error).__name__)}"
        raise DataError(Problem(where=printable(str(path)), message=message, fix=_FIX)) from None
    replies = [name for name in (found[0][1] if found else ()) if name.strip('"').lower() == "prediction"]
    formulas = sum(any(str(cells[name]).startswith("=") for name in replies) for _, cells in found)
    if formulas:
        notes.append(f"{path}: {formulas} replies start with =; they are scored as they were typed")
    return iter(found)


def _named_rows(data: bytes) -> Iterator[tuple[int, Mapping[str, object]]]:
    from openpyxl import load_workbook

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > MAX_UNPACKED_BYTES:
        raise ValueError(f"it unpacks to {unpacked:,} bytes; {MAX_UNPACKED_BYTES:,} are expected at most")
    with warnings.catch_warnings():
        # Of styles and extensions that are of no use here.
        warnings.simplefilter("ignore")
        book = load_workbook(io.BytesIO(data), read_only=True)
        try:
            sheet = book.worksheets[0]
            # Some writers note a wrong size, and the reader would believe it.
            sheet.reset_dimensions()
            first = next(sheet.iter_rows(max_row=1, max_col=_MAX_COLUMNS, values_only=True), ())
            names = {column: str(name) for column, name in enumerate(first) if name not in (None, "")}
            # Without an end, one cell far to the right would make its row thousands of cells wide.
            rows = sheet.iter_rows(min_row=2, max_col=max(names, default=0) + 1, values_only=True)
            for number, row in enumerate(rows, 2):
                if any(value is not None for value in row):
                    yield number, {name: _unescaped(row[column]) for column, name in names.items() if column < len(row)}
        finally:
            book.close()


def _unescaped(value: object) -> object:
    if not isinstance(value, str) or "_x" not in value:
        return value
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), value)
