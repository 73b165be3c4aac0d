"""Strict reading of JSON files: what Python's parser lets through silently is an error here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from qvl_core.errors import Problem, WeightsError
from qvl_core.input_file import ErrorType, printable, read_regular_file

# A manifest of the largest model in 128 parts, with optimizer state, has 6 MB. Parsing takes up to 15 times as much.
MAX_JSON_BYTES = 16 * 1024**2


class JsonError(ValueError):
    """Text that is not the JSON we accept; the message says what and where."""


def parse_json(data: bytes) -> Any:
    """Give the value of UTF-8 JSON text.

    Raises JsonError for wrong UTF-8, a key that occurs twice in one object, NaN or infinity, numbers with
    thousands of digits and nesting deeper than the interpreter allows.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JsonError(f"not UTF-8 text: byte {data[error.start]:#04x} at position {error.start}") from None
    try:
        return json.loads(text, object_pairs_hook=object_without_duplicates, parse_constant=refuse_constant)
    except RecursionError:
        raise JsonError("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise JsonError(f"not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except JsonError:
        raise
    except ValueError as error:
        # Python refuses integers of more than 4,300 digits with a plain ValueError.
        raise JsonError(f"not JSON that can be read: {printable(str(error))}") from None


def read_json_object(
    path: Path, *, error_type: ErrorType = WeightsError, limit: int = MAX_JSON_BYTES, fix: str = ""
) -> dict[str, Any]:
    """Read a file that holds one JSON object. Raises `error_type` naming the file."""
    data = read_regular_file(path, error_type=error_type, limit=limit, fix=fix)
    try:
        value = parse_json(data)
        if not isinstance(value, dict):
            raise JsonError(f"holds a JSON {type(value).__name__}, not an object")
    except JsonError as error:
        raise error_type(Problem(where=printable(str(path)), message=str(error), fix=fix)) from None
    return value


def object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Give the object of these pairs: a hook for a decoder of one's own. Raises JsonError on a repeated key."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise JsonError(f"the key {printable(key, 100)!r} occurs twice in one object")
            seen.add(key)
    return found


def refuse_constant(text: str) -> NoReturn:
    """Raise JsonError for NaN and Infinity: a hook for a decoder of one's own."""
    raise JsonError(f"{text} is not a JSON number")
