"""What a Parquet file says about its row groups, read without pyarrow: rows, values and bytes of each column.

pyarrow's own view of a column's metadata ends the process on a damaged footer: a C++ exception that nobody catches.
The footer is a Thrift structure in the compact protocol; the field numbers are those of the format's `parquet.thrift`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

PARQUET_MAGIC = b"PAR1"
# 100,000 column chunks have about 15 MB.
MAX_FOOTER_BYTES = 64 * 1024**2
_MAX_DEPTH = 32
_TAIL_BYTES = 8
_STOP, _TRUE, _FALSE, _I8, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(13)
_Wanted = Mapping[int, Any]
# FileMetaData: 3 num_rows, 4 row_groups. RowGroup: 1 columns, 3 num_rows. ColumnChunk: 1 file_path, 3 meta_data.
# ColumnMetaData: 3 path_in_schema, 5 num_values, 6 total_uncompressed_size.
_COLUMN: _Wanted = {1: {}, 3: {3: {}, 5: {}, 6: {}}}
_FILE: _Wanted = {3: {}, 4: {1: _COLUMN, 3: {}}}


class FooterError(ValueError):
    """A footer that cannot be read; the text says why. The caller adds the file."""


@dataclass(frozen=True, kw_only=True)
class ColumnChunk:
    """One column of a row group: its place in the schema, its values, its bytes before compression."""

    path: tuple[str, ...]
    values: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """One row group."""

    rows: int
    columns: tuple[ColumnChunk, ...]


def read_footer(file: BinaryIO) -> tuple[RowGroup, ...]:
    """Give the row groups of an open file. Raises FooterError."""
    size = file.seek(0, os.SEEK_END)
    if size < len(PARQUET_MAGIC) + _TAIL_BYTES:
        raise FooterError(f"has {size} bytes: it is truncated")
    file.seek(size - _TAIL_BYTES)
    tail = file.read(_TAIL_BYTES)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != PARQUET_MAGIC:
        raise FooterError("does not end as a Parquet file does: it is truncated")
    if length > min(MAX_FOOTER_BYTES, size - len(PARQUET_MAGIC) - _TAIL_BYTES):
        raise FooterError(f"says that its footer has {length:,} bytes; the file has {size:,}")
    file.seek(size - _TAIL_BYTES - length)
    try:
        found = _Reader(file.read(length)).struct(_FILE, 0)
        groups = tuple(_row_group(each) for each in _listed(found.get(4)))
        stated = _count(found.get(3))
    except IndexError:
        raise FooterError("has a footer that breaks off") from None
    total = sum(group.rows for group in groups)
    if total != stated:
        raise FooterError(f"says {stated:,} rows in all and {total:,} in its row groups")
    return groups


def _row_group(found: Any) -> RowGroup:
    fields = _fields(found)
    columns = tuple(_column(_fields(each)) for each in _listed(fields.get(1)))
    return RowGroup(rows=_count(fields.get(3)), columns=columns)


def _column(fields: dict[int, Any]) -> ColumnChunk:
    if 1 in fields:
        raise FooterError("keeps a column in another file, which is not opened")
    metadata = _fields(fields.get(3))
    path = tuple(_text(part) for part in _listed(metadata.get(3)))
    if not path:
        raise FooterError("has a column without a name")
    return ColumnChunk(path=path, values=_count(metadata.get(5)), bytes=_count(metadata.get(6)))


def _fields(found: Any) -> dict[int, Any]:
    if not isinstance(found, dict):
        raise FooterError("has a footer without the fields that it needs")
    return found


def _listed(found: Any) -> list[Any]:
    if not isinstance(found, list):
        raise FooterError("has a footer without the lists that it needs")
    return found


def _count(found: Any) -> int:
    if type(found) is not int or found < 0:
        raise FooterError("has a footer without a number that it needs, or with a negative one")
    return found


def _text(found: Any) -> str:
    if not isinstance(found, bytes):
        raise FooterError("has a column without a name")
    return found.decode("utf-8", "replace")


class _Reader:
    """Reads the compact protocol. Only the wanted fields are kept. IndexError where the bytes end too early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def struct(self, wanted: _Wanted, depth: int) -> dict[int, Any]:
        """Give the wanted fields of a structure by number."""
        found: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) != _STOP:
            kind, step = head & 15, head >> 4
            number = number + step if step else self._signed()
            value = self._value(kind, wanted.get(number), depth, in_list=False)
            if number in wanted:
                found[number] = value
        return found

    def _value(self, kind: int, wanted: _Wanted | None, depth: int, *, in_list: bool) -> Any:
        if depth > _MAX_DEPTH:
            raise FooterError("has a footer that is nested too deeply")
        if kind in (_TRUE, _FALSE):
            return self._byte() == _TRUE if in_list else kind == _TRUE
        if kind == _I8:
            return self._byte()
        if kind in (_I16, _I32, _I64):
            return self._signed()
        if kind == _DOUBLE:
            return self._bytes(8)
        if kind == _BINARY:
            return self._bytes(self._unsigned())
        if kind in (_LIST, _SET):
            return self._list(wanted, depth + 1)
        if kind == _STRUCT:
            return self.struct(wanted or {}, depth + 1)
        if kind == _MAP:
            return self._map(depth + 1)
        raise FooterError(f"has a footer with a field of the unknown kind {kind}")

    def _list(self, wanted: _Wanted | None, depth: int) -> list[Any]:
        head = self._byte()
        size = head >> 4 if head >> 4 < 15 else self._unsigned()
        self._require(size)
        found = (self._value(head & 15, wanted, depth, in_list=True) for _ in range(size))
        if wanted is None:
            for _ in found:
                pass
            return []
        return list(found)

    def _map(self, depth: int) -> None:
        size = self._unsigned()
        self._require(size)
        kinds = self._byte() if size else 0
        for _ in range(size):
            self._value(kinds >> 4, None, depth, in_list=True)
            self._value(kinds & 15, None, depth, in_list=True)

    def _require(self, count: int) -> None:
        """Refuse a count of things that cannot all be there, each having a byte at least."""
        if count > len(self._data) - self._at:
            raise IndexError

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _bytes(self, count: int) -> bytes:
        self._require(count)
        self._at += count
        return self._data[self._at - count : self._at]

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise FooterError("has a footer with a number of more than 64 bits")

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
