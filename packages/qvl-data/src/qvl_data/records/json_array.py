"""A JSON array of records, read through a sliding window: memory holds one record, whatever the file's size.

Where a record ends is found by its quotes and brackets alone; then its text is parsed. So a record that is no valid
JSON costs only itself, as long as its brackets are balanced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from qvl_core.errors import DataError, Problem
from qvl_core.input_file import printable

from qvl_data.records.element import Block, Element, Place
from qvl_data.records.json_lines import Progress
from qvl_data.records.strict_json import MAX_RECORD_BYTES
from qvl_data.records.text_file import (
    CHUNK_BYTES,
    FileIdentity,
    digest_of,
    opened,
    parse_element_text,
    read_element,
    too_long,
)

_SPACE = re.compile(rb"[ \t\r\n]*")
# Everything up to the next bracket, whole strings included. The counts bound what the matcher remembers: where they are
# too small, `_string_end` or another match goes on.
_UP_TO_BRACKET = re.compile(rb'[^"{}\[\]]*(?:"[^"\\]*(?:\\.[^"\\]*){0,100}"[^"{}\[\]]*){0,100}', re.DOTALL)
_INSIDE_STRING = re.compile(rb'[^"\\]*(?:\\.[^"\\]*){0,500}', re.DOTALL)
_SCALAR_END = re.compile(rb"[,\]\s]")
_QUOTE, _OPENING = ord('"'), b"{["
# Records longer than this are not parsed to find out what is wrong with them.
_DIAGNOSED_BYTES = CHUNK_BYTES
_LOOK_BACK_BYTES = 256


@dataclass(frozen=True, kw_only=True)
class JsonArrayFile:
    """A file that holds one JSON array, whose `[` is byte `start`. Holds no open file and no record."""

    path: Path
    identity: FileIdentity
    start: int = 0

    def elements(self) -> Iterator[Element]:
        """Give every record in order; one that cannot be read has its `error`, and is the last if nobody can say
        where the next one starts."""
        with opened(self.path, self.identity) as file:
            yield from _elements(_Window(file, self.start))

    def read(self, place: Place) -> Element:
        """Give the record at a place that `elements` gave."""
        if place.size > MAX_RECORD_BYTES:
            return too_long(place)
        shares_line = _follows_on_line(self.path, self.identity, place.offset)
        return read_element(self.path, self.identity, place, one_line=False, shares_line=shares_line)

    def digest(self) -> str:
        """Give the sha256 of the file."""
        return digest_of(self.path, self.identity)

    def blocks(self, rows: int, progress: Progress | None = None) -> tuple[Block, ...]:
        """Refuse: the records of an array cannot be found without reading all of it. Raises DataError."""
        where = printable(str(self.path))
        message = "is a JSON array, in which records cannot be found without reading all of it; it cannot be streamed"
        fix = f"qvl data convert {where} {self.path.with_suffix('.jsonl').name}"
        raise DataError(Problem(where=where, message=message, fix=fix))

    def read_block(self, block: Block) -> list[Element]:
        """Refuse, as `blocks` does."""
        self.blocks(block.rows)
        raise AssertionError("blocks() raises")


class _EndlessError(Exception):
    """The file ends inside a record."""


class _TooLongError(Exception):
    """A record is longer than is held in memory."""


class _Window:
    """A piece of the file that starts at or before the current position and reaches as far as was looked at.

    `data[0]` is byte `offset` of the file; `line` is that of `data[position]`.
    """

    def __init__(self, file: BinaryIO, start: int) -> None:
        file.seek(0)
        self.line = file.read(start).count(b"\n") + 1 if start else 1
        self._file = file
        self.offset = start
        self.position = 0
        self.data = b""

    def extend(self) -> bool:
        """Read more, in steps that grow with what is held; False at the end of the file."""
        chunk = self._file.read(max(CHUNK_BYTES, len(self.data)))
        self.data += chunk
        return bool(chunk)

    def move(self, position: int) -> None:
        """Go on to a position of `data`; what lies before it is given back now and then."""
        self.line += self.data.count(b"\n", self.position, position)
        self.position = position
        if position >= CHUNK_BYTES:
            self.data = self.data[position:]
            self.offset += position
            self.position = 0

    def next_byte(self) -> bytes:
        """Skip white space and give the byte there without moving past it; b"" at the end of the file."""
        while True:
            match = _SPACE.match(self.data, self.position)
            assert match is not None  # The pattern also matches nothing.
            self.move(match.end())
            if self.position < len(self.data):
                return self.data[self.position : self.position + 1]
            if not self.extend():
                return b""

    def value_end(self) -> int:
        """Give the position behind the value that starts here. Raises _EndlessError and _TooLongError."""
        first = self.data[self.position]
        if first == _QUOTE:
            return self._string_end(self.position + 1)
        if first in _OPENING:
            return self._bracket_end()
        at = self.position
        while (match := _SCALAR_END.search(self.data, at)) is None:
            at = len(self.data)
            self._more()
        return match.start()

    def _bracket_end(self) -> int:
        at, depth = self.position, 0
        while True:
            match = _UP_TO_BRACKET.match(self.data, at)
            assert match is not None  # The pattern also matches nothing.
            at = match.end()
            if at == len(self.data):
                self._more()
                continue
            mark = self.data[at]
            at += 1
            if mark == _QUOTE:
                at = self._string_end(at)
            elif mark in _OPENING:
                depth += 1
            else:
                depth -= 1
                if depth == 0:
                    return at

    def _string_end(self, at: int) -> int:
        """Give the position behind the closing quote of a string whose text starts at a position."""
        while True:
            match = _INSIDE_STRING.match(self.data, at)
            assert match is not None  # The pattern also matches nothing.
            at = match.end()
            if at < len(self.data) and self.data[at] == _QUOTE:
                return at + 1
            # More escapes than one match takes, or a backslash whose character is not read yet, or the window's end.
            if at + 1 >= len(self.data):
                self._more()

    def _more(self) -> None:
        if len(self.data) - self.position > MAX_RECORD_BYTES:
            raise _TooLongError
        if not self.extend():
            raise _EndlessError


def _elements(window: _Window) -> Iterator[Element]:
    window.next_byte()
    window.move(window.position + 1)  # Behind the bracket, which whoever opened the file has seen.
    index = 0
    line_of_end = 0
    if window.next_byte() == b"]":
        yield from _trailing(window, index)
        return
    while True:
        mark = window.next_byte()
        if mark in (b"", b",", b"]"):
            found = "the file ends here: it is truncated" if not mark else f"found {mark.decode()!r}"
            yield _stop(window, index, f"expected a record; {found}")
            return
        element = _next_element(window, index, shares_line=window.line == line_of_end)
        yield element
        if element.place is None:
            return
        index += 1
        line_of_end = window.line
        mark = window.next_byte()
        if mark == b"]":
            yield from _trailing(window, index)
            return
        if mark != b",":
            found = "the file ends here: it is truncated" if not mark else f"found {_shown(mark)}"
            yield _stop(window, index, f"expected a comma or ] after the record; {found}")
            return
        window.move(window.position + 1)


def _next_element(window: _Window, index: int, *, shares_line: bool) -> Element:
    """Give the element that starts here and move behind it; one without a place if its end cannot be found."""
    start, line = window.position, window.line
    try:
        end = window.value_end()
    except (_EndlessError, _TooLongError) as error:
        place = Place(offset=window.offset + start, size=len(window.data) - start, line=line, index=index)
        if isinstance(error, _TooLongError):
            return replace(too_long(place, shares_line=shares_line), place=None)
        return _endless(window.data[start:], place, shares_line)
    place = Place(offset=window.offset + start, size=end - start, line=line, index=index)
    text = window.data[start:end]
    window.move(end)
    if place.size > MAX_RECORD_BYTES:
        return too_long(place, shares_line=shares_line)
    return parse_element_text(text, place, one_line=False, shares_line=shares_line)


def _endless(text: bytes, place: Place, shares_line: bool) -> Element:
    message = "the file ends inside the record that starts here: it is truncated, or a bracket or quote is missing"
    if len(text) <= _DIAGNOSED_BYTES:
        element = parse_element_text(text, place, one_line=False, shares_line=shares_line)
        message = f"{element.error}; {message}"
        return replace(element, error=message, place=None)
    return Element(line=place.line, index=place.index, error=message, shares_line=shares_line)


def _trailing(window: _Window, index: int) -> Iterator[Element]:
    """Give an error if anything follows the closing bracket, which the window stands at."""
    window.move(window.position + 1)
    if window.next_byte():
        rest = window.data[window.position : window.position + 40]
        yield _stop(window, index, f"text after the end of the list: {_shown(rest)}")


def _stop(window: _Window, index: int, message: str) -> Element:
    return Element(line=window.line, index=index, error=message)


def _shown(data: bytes) -> str:
    return repr(data.decode("utf-8", "replace"))


def _follows_on_line(path: Path, identity: FileIdentity, offset: int) -> bool:
    """Tell whether another record ends on the line where the one at `offset` starts."""
    with opened(path, identity) as file:
        while offset:
            start = max(0, offset - _LOOK_BACK_BYTES)
            file.seek(start)
            before = file.read(offset - start)
            # What can stand between a line's start and a record that shares it with none.
            text = before[before.rfind(b"\n") + 1 :].strip(b" \t\r,[\xef\xbb\xbf")
            if text or b"\n" in before:
                return bool(text)
            offset = start
    return False
