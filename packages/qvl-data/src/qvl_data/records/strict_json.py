"""The JSON text of one record to its value, strictly.

Refused: what is not UTF-8, keys that occur twice in one object, NaN and Infinity, halves of surrogate pairs, integers
of thousands of digits, nesting too deep for the interpreter.
"""

from __future__ import annotations

import json
import re
from typing import Any

from qvl_core.input_file import printable
from qvl_core.json_file import JsonError, object_without_duplicates, refuse_constant

# Text and paths only: a longer record is a file without line ends or a missing quote, and not to be held in memory.
MAX_RECORD_BYTES = 16 * 1024**2
_SURROGATE = re.compile("[\ud800-\udfff]")
_DECODER = json.JSONDecoder(object_pairs_hook=object_without_duplicates, parse_constant=refuse_constant)
GBK_FIX = "iconv -f GB18030 -t UTF-8 FILE > NEW_FILE"


class NotUtf8Error(JsonError):
    """Text in another encoding; `fix` says how to convert it where the encoding can be guessed."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


def parse_record(data: bytes, *, offset: int = 0, line: int | None = None, is_first_on_line: bool = True) -> Any:
    """Give the value of the JSON text of one record. Raises JsonError, NotUtf8Error for a wrong encoding.

    `offset` is the text's place in the file, in bytes. With `line`, that of the text's start, messages name the line
    and column in the file; without, the text is one line and they name the column.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _encoding_error(data, error, offset) from None
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise JsonError("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise JsonError(f"not JSON: {error.msg} ({_position(error, line, is_first_on_line)})") from None
    except JsonError:
        raise
    except ValueError as error:
        # Python refuses integers of more than 4,300 digits with a plain ValueError, and names its own switch.
        is_long = "digits" in str(error)
        reason = "it holds a whole number of thousands of digits" if is_long else printable(str(error))
        raise JsonError(f"not JSON that can be read: {reason}") from None
    # Only an escape can spell a surrogate: UTF-8 that holds one was refused above.
    return without_surrogates(value) if "\\u" in text else value


def without_surrogates(value: Any) -> Any:
    """Give the value back if all its strings can be encoded. JSON escapes can spell half a character."""
    stack = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, str):
            if not part.isascii() and _SURROGATE.search(part):
                raise JsonError("a string holds half of a surrogate pair, which is no character")
        elif isinstance(part, dict):
            stack.extend(part.keys())
            stack.extend(part.values())
        elif isinstance(part, list):
            stack.extend(part)
    return value


def _position(error: json.JSONDecodeError, line: int | None, is_first_on_line: bool) -> str:
    if line is None:
        return f"column {error.colno}"
    if error.lineno == 1 and not is_first_on_line:
        return f"line {line}, character {error.colno} of the record"
    return f"line {line + error.lineno - 1}, column {error.colno}"


def _encoding_error(data: bytes, error: UnicodeDecodeError, offset: int) -> NotUtf8Error:
    message = f"not UTF-8 text: byte {data[error.start]:#04x} at position {offset + error.start:,} of the file"
    # The common characters only, both bytes of which are high: as GBK one can read nearly every Latin-1 text too.
    try:
        data.decode("gb2312")
    except UnicodeDecodeError:
        return NotUtf8Error(message, "")
    return NotUtf8Error(f"{message}; it may be GBK", GBK_FIX)
