"""JSON Lines: one record a line, blank lines skipped, LF or CRLF; a broken line costs only itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from qvl_core.errors import DataError, Problem
from qvl_core.input_file import printable
from qvl_core.json_file import JsonError

from qvl_data.records.element import Block, Element, Place
from qvl_data.records.strict_json import MAX_RECORD_BYTES, parse_record
from qvl_data.records.text_file import (
    CHUNK_BYTES,
    FileIdentity,
    digest_of,
    opened,
    parse_element_text,
    read_element,
    too_long,
)

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""
LIST_FIX = "a list of records: [ {...}, {...} ], or one record on each line"


@dataclass(frozen=True, kw_only=True)
class JsonLinesFile:
    """A file of JSON Lines whose first record starts at or after byte `start`. Holds no open file and no record."""

    path: Path
    identity: FileIdentity
    start: int = 0

    def elements(self) -> Iterator[Element]:
        """Give every record in order; one that cannot be read has its `error`. Raises DataError for a single object."""
        with opened(self.path, self.identity) as file:
            for place, text in _lines(file, self.start):
                element = self._element(place, text)
                if element.error and place.index == 0:
                    self._refuse_single_object()
                yield element

    def read(self, place: Place) -> Element:
        """Give the record at a place that `elements` or `read_block` gave."""
        if place.size > MAX_RECORD_BYTES:
            return too_long(place)
        return read_element(self.path, self.identity, place, one_line=True)

    def digest(self) -> str:
        """Give the sha256 of the file."""
        return digest_of(self.path, self.identity)

    def blocks(self, rows: int, progress: Progress | None = None) -> tuple[Block, ...]:
        """Cut the file into blocks of `rows` records by its line ends alone; nothing is parsed."""
        blocks: list[Block] = []
        first: Place | None = None
        count = end = reported = 0
        with opened(self.path, self.identity) as file:
            for place, _ in _lines(file, self.start, keep=False):
                first = first or place
                count, end = count + 1, place.offset + place.size
                if count == rows:
                    blocks.append(_block(first, end, count))
                    first, count = None, 0
                if progress and end - reported >= 64 * CHUNK_BYTES:
                    progress("finding records", end, self.identity.size)
                    reported = end
        if first is not None:
            blocks.append(_block(first, end, count))
        return tuple(blocks)

    def read_block(self, block: Block) -> list[Element]:
        """Give the records of a block."""
        with opened(self.path, self.identity) as file:
            found = _lines(file, block.offset, line=block.line, index=block.index, end=block.offset + block.size)
            return [self._element(place, text) for place, text in found]

    def _element(self, place: Place, text: bytes) -> Element:
        if place.size > MAX_RECORD_BYTES:
            return too_long(place)
        is_cut = place.offset + place.size == self.identity.size
        return parse_element_text(text, place, one_line=True, is_cut=is_cut)

    def _refuse_single_object(self) -> None:
        """Raise DataError if the file is one object over several lines: not JSON Lines, not a list."""
        if self.identity.size > MAX_RECORD_BYTES:
            return
        with opened(self.path, self.identity) as file:
            file.seek(self.start)
            data = file.read()
        try:
            value = parse_record(data)
        except JsonError:
            return
        keys = ", ".join(sorted(value)[:5]) if isinstance(value, dict) else ""
        message = f"the top level is one object (keys {printable(keys)}), not a list of records"
        raise DataError(Problem(where=f"{printable(str(self.path))}:1", message=message, fix=LIST_FIX))


def _lines(
    file: BinaryIO, start: int, *, line: int = 1, index: int = 0, end: int | None = None, keep: bool = True
) -> Iterator[tuple[Place, bytes]]:
    """Give place and text of each line that is not blank; `keep` false leaves the texts out.

    The text of a line longer than a record may be is its beginning only; its place says how long it is.
    """
    file.seek(start)
    offset = start
    while end is None or offset < end:
        text = file.readline(MAX_RECORD_BYTES + 1)
        if not text:
            return
        length = len(text)
        if length > MAX_RECORD_BYTES and not text.endswith(b"\n"):
            length += _skip_line(file)
        body = text.strip()
        if body or length > len(text):
            # A size of the whole line, but for its end: a place is also good for saying how long a broken line is.
            before = len(text) - len(text.lstrip())
            size = length - before if length > len(text) else len(body)
            yield Place(offset=offset + before, size=size, line=line, index=index), body if keep else b""
            index += 1
        offset += length
        line += 1


def _skip_line(file: BinaryIO) -> int:
    """Read on to the end of the line; give the bytes passed."""
    passed = 0
    while piece := file.readline(CHUNK_BYTES):
        passed += len(piece)
        if piece.endswith(b"\n"):
            break
    return passed


def _block(first: Place, end: int, rows: int) -> Block:
    return Block(offset=first.offset, size=end - first.offset, line=first.line, index=first.index, rows=rows)
