"""Read a JSON array or JSON Lines strictly: each element with the line that it starts on.

What is defined here: UTF-8 only; a UTF-8 byte-order mark at the start is skipped; CRLF is white space; blank lines
between JSON lines are skipped. Refused: other encodings, keys that occur twice in one object, NaN and Infinity,
lone surrogates, integers of thousands of digits, nesting too deep for the interpreter, a truncated end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvl_core.errors import DataError, Problem
from qvl_core.input_file import printable, read_regular_file
from qvl_core.json_file import JsonError, object_without_duplicates, parse_json, refuse_constant

# A bound so that a wrong path (a disk image, a weights file) is refused instead of filling the memory.
MAX_DATA_BYTES = 8 * 1024**3
_UTF8_MARK = b"\xef\xbb\xbf"
_OTHER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_FIX = "a list of records: [ {...}, {...} ]"
_SPACE = re.compile(r"[ \t\r\n]*")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class Element:
    """One element of a data file: its value, or what is wrong with it. `line` counts from 1, `index` from 0.

    `shares_line`: the element before it starts on the same line, so the line alone does not name it.
    """

    line: int
    index: int
    value: Any = None
    error: str = ""
    shares_line: bool = False

    def where(self, path: Path) -> str:
        """Name the element: `file:line`, or `file:line[index]` where several stand on one line."""
        place = f"{printable(str(path))}:{self.line}"
        return f"{place}[{self.index}]" if self.shares_line else place


def read_data_file(path: Path) -> bytes:
    """Read a data file whole. Raises DataError if it is missing, empty, not a regular file or not UTF-8."""
    data = read_regular_file(path, error_type=DataError, limit=MAX_DATA_BYTES)
    where = printable(str(path))
    if not data.strip():
        message = "the file is empty: 0 records" if not data else "the file holds only white space: 0 records"
        raise DataError(Problem(where=where, message=message))
    encoding = _OTHER_MARKS.get(data[:2])
    if encoding:
        fix = f"iconv -f {encoding} -t UTF-8 FILE > NEW_FILE"
        raise DataError(Problem(where=where, message=f"not UTF-8: it starts as {encoding} does", fix=fix))
    return data[len(_UTF8_MARK) :] if data.startswith(_UTF8_MARK) else data


def iterate_elements(data: bytes, path: Path) -> Iterator[Element]:
    """Give every element of a JSON array, or of JSON Lines, in file order.

    An element that cannot be read is given with its `error`; in an array nothing can be read after it.
    Raises DataError if the top level is neither.
    """
    first = data.lstrip()[:1]
    if first == b"[":
        return _iterate_array(data)
    if first == b"{":
        _refuse_single_object(data, path)
        return _iterate_lines(data)
    message = f"holds neither a JSON array nor JSON Lines: it starts with {first!r}"
    raise DataError(Problem(where=f"{printable(str(path))}:1", message=message, fix=_FIX))


def _iterate_lines(data: bytes) -> Iterator[Element]:
    index = 0
    start = 0
    line = 0
    while start < len(data):
        line += 1
        end = data.find(b"\n", start)
        is_cut = end < 0
        end = len(data) if is_cut else end
        text = data[start:end].strip()
        start = end + 1
        if not text:
            continue
        try:
            value = _without_surrogates(parse_json(text))
        except JsonError as error:
            # parse_json counts lines inside the text that it is given, which here is always one line.
            message = re.sub(r"\(line 1, column", "(column", str(error))
            if is_cut:
                message += "; the file ends inside this record: its last line is truncated"
            yield Element(line=line, index=index, error=message)
        else:
            yield Element(line=line, index=index, value=value)
        index += 1


def _iterate_array(data: bytes) -> Iterator[Element]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"not UTF-8 text: byte {data[error.start]:#04x} at position {error.start}"
        yield Element(line=line, index=0, error=message)
        return
    decoder = json.JSONDecoder(object_pairs_hook=object_without_duplicates, parse_constant=refuse_constant)
    position = _skip_space(text, text.index("[") + 1)
    line = text.count("\n", 0, position) + 1
    index = 0
    previous_line = 0
    if text[position : position + 1] == "]":
        yield from _trailing(text, position + 1, line, index)
        return
    while True:
        try:
            value, end = decoder.raw_decode(text, position)
            value = _without_surrogates(value)
        except JsonError as error:
            # The element is well formed up to here only; where it ends is unknown, so reading stops.
            yield Element(line=line, index=index, error=str(error))
            return
        except (ValueError, RecursionError) as error:
            yield _broken_element(text, line, index, error)
            return
        yield Element(line=line, index=index, value=value, shares_line=line == previous_line)
        index += 1
        previous_line = line
        after = _skip_space(text, end)
        line += text.count("\n", position, after)
        mark = text[after : after + 1]
        if mark == "]":
            yield from _trailing(text, after + 1, line, index)
            return
        if mark != ",":
            found = "the file ends here: it is truncated" if not mark else f"found {mark!r}"
            yield Element(line=line, index=index, error=f"expected a comma or ] after the record; {found}")
            return
        position = _skip_space(text, after + 1)
        line += text.count("\n", after, position)


def _broken_element(text: str, line: int, index: int, error: Exception) -> Element:
    if isinstance(error, RecursionError):
        return Element(line=line, index=index, error="nested too deeply")
    if isinstance(error, json.JSONDecodeError):
        message = f"not JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated"):
            message += "; the file may be truncated"
        return Element(line=line, index=index, error=message)
    return Element(line=line, index=index, error=f"not JSON that can be read: {printable(str(error))}")


def _trailing(text: str, position: int, line: int, index: int) -> Iterator[Element]:
    rest = _skip_space(text, position)
    if rest < len(text):
        line += text.count("\n", position, rest)
        excerpt = text[rest : rest + 40]
        yield Element(line=line, index=index, error=f"text after the end of the list: {excerpt!r}")


def _refuse_single_object(data: bytes, path: Path) -> None:
    """Raise DataError if the file is one object over several lines: not JSON Lines, not a list."""
    head = data.lstrip().split(b"\n", 1)
    if len(head) < 2 or not head[1].strip():
        return
    try:
        parse_json(head[0].strip())
    except JsonError:
        try:
            value = parse_json(data)
        except (JsonError, MemoryError):
            return
        keys = ", ".join(sorted(value)[:5])
        message = f"the top level is one object (keys {printable(keys)}), not a list of records"
        raise DataError(Problem(where=f"{printable(str(path))}:1", message=message, fix=_FIX)) from None


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None  # The pattern also matches nothing.
    return match.end()


def _without_surrogates(value: Any) -> Any:
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
