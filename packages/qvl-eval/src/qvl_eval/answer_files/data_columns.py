"""What a benchmark's TSV file says of its rows, for answers that came without it: texts, and a hash of each picture."""

from __future__ import annotations

import ast
import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qvl_core.errors import DataError, Problem
from qvl_core.input_file import printable

from qvl_eval.answer_files.tables import stream_records
from qvl_eval.score.choice import lettered

# A shorter cell is the index of the row that holds the picture; this is the file format's rule.
REFERENCE_CHARACTERS = 64
_COLUMNS = ("question", "answer", "split", "category", "subcategory", "question_type")


@dataclass(frozen=True, kw_only=True)
class DataRow:
    """One question. `images` are the sha256 of the pictures' bytes, none where the file has no pictures."""

    columns: Mapping[str, str]
    options: Mapping[str, str]
    images: tuple[str, ...]


def read_data_rows(path: Path) -> dict[str, DataRow]:
    """Give the rows by index. Raises DataError for a file without the columns index and answer, or a repeated index."""
    rows: dict[str, DataRow] = {}
    pictures: dict[str, tuple[str, ...]] = {}
    for record in stream_records(path, []):
        missing = [name for name in ("index", "answer") if name not in record.cells]
        if missing:
            message = f"has no column {' and '.join(missing)}"
            raise DataError(Problem(where=printable(str(path)), message=message, fix="give the benchmark's TSV file"))
        index = record.text("index")
        if index in rows:
            message = f"the index {printable(index, 60)!r} occurs twice"
            raise DataError(Problem(where=record.where, key="index", message=message))
        cell = record.text("image")
        is_reference = 0 < len(cell) <= REFERENCE_CHARACTERS
        pictures[index] = pictures.get(cell, ()) if is_reference else _digests(cell)
        rows[index] = DataRow(
            columns={name: record.text(name) for name in _COLUMNS},
            options=lettered({name: text for name, text in record.cells.items() if len(name) == 1 and name.isupper()}),
            images=pictures[index],
        )
    if not rows:
        raise DataError(Problem(where=printable(str(path)), message="holds no rows"))
    return rows


def _digests(cell: str) -> tuple[str, ...]:
    """Give a hash per picture of a cell. What is no base64 is hashed as it is: here it only tells pictures apart."""
    if not cell:
        return ()
    members = [cell]
    if cell.startswith("[") and cell.endswith("]"):
        try:
            value = ast.literal_eval(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None
        members = [str(member) for member in value] if isinstance(value, list) else members
    return tuple(hashlib.sha256(_bytes(member)).hexdigest() for member in members)


def _bytes(member: str) -> bytes:
    try:
        return base64.b64decode("".join(member.split()), validate=True)
    except (binascii.Error, ValueError):
        return member.encode("utf-8", "surrogatepass")
