"""Parquet files: rows as records, decoded row group by row group, struct and list columns as Python objects.

Columns of bytes (images stored in the file) are never decoded; a record has an `Unread` in their place.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from qvl_core.errors import DataError, NotInstalledError, Problem, QvlError
from qvl_core.input_file import open_regular_file, printable

from qvl_data.records.element import Block, Element, Place, Unread
from qvl_data.records.json_lines import Progress
from qvl_data.records.parquet_footer import RowGroup, read_footer
from qvl_data.records.text_file import FileIdentity, digest_of, opened

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# Decoded at once where a row is read at its place, so a bound on memory; by the file's own statement, checked before.
MAX_GROUP_BYTES = 1024**3
# A repeated value costs nearly nothing in the file and at least this much decoded.
_BYTES_PER_VALUE = 8
_BATCH_ROWS = 256
_CACHED_BYTES = 256 * 1024**2
_GROUP_FIX = 'pyarrow.parquet.write_table(table, "NEW.parquet", row_group_size=1000)'


class _GroupCache:
    """The row groups that were decoded last, up to `_CACHED_BYTES` of them and at least one. Pickles as empty."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._tables: dict[int, pa.Table] = {}

    def __reduce__(self) -> tuple[type[_GroupCache], tuple[()]]:
        return (_GroupCache, ())

    def get(self, group: int) -> pa.Table | None:
        """Give a group, which becomes the last one to go."""
        table = self._tables.pop(group, None)
        if table is not None:
            self._tables[group] = table
        return table

    def put(self, group: int, table: pa.Table) -> None:
        """Keep a group and let go of those used longest ago."""
        self._tables[group] = table
        while len(self._tables) > 1 and sum(each.nbytes for each in self._tables.values()) > _CACHED_BYTES:
            del self._tables[next(iter(self._tables))]


@dataclass(frozen=True, kw_only=True)
class ParquetRecordFile:
    """A Parquet file. `starts[g]` is the first row of row group g, the last entry the number of rows."""

    path: Path
    identity: FileIdentity
    columns: tuple[str, ...]
    unread: tuple[tuple[str, Unread], ...]
    starts: tuple[int, ...]
    _cache: _GroupCache = field(default_factory=_GroupCache, repr=False, compare=False)

    def elements(self) -> Iterator[Element]:
        """Give every row in order. Raises DataError where the file is damaged."""
        with opened(self.path, self.identity) as file:
            with _explained(self.path):
                reader = _reader(file)
            for group, start in enumerate(self.starts[:-1]):
                row = start
                batches = reader.iter_batches(
                    _BATCH_ROWS, row_groups=[group], columns=list(self.columns), use_threads=False
                )
                while True:
                    with _explained(self.path):
                        batch = next(batches, None)
                    if batch is None:
                        break
                    yield from self._rows(batch, row)
                    row += batch.num_rows
                self._require_rows(group, row - start)

    def read(self, place: Place) -> Element:
        """Give the row at a place that `elements` or `read_block` gave."""
        return self._slice(place.offset, 1)[0]

    def digest(self) -> str:
        """Give the sha256 of the file."""
        return digest_of(self.path, self.identity)

    def blocks(self, rows: int, progress: Progress | None = None) -> tuple[Block, ...]:
        """Cut each row group into blocks of at most `rows` rows; nothing is read, the footer says it all."""
        return tuple(
            Block(offset=row, size=0, line=row + 1, index=row, rows=min(rows, end - row))
            for start, end in zip(self.starts, self.starts[1:], strict=False)
            for row in range(start, end, rows)
        )

    def read_block(self, block: Block) -> list[Element]:
        """Give the rows of a block."""
        return self._slice(block.offset, block.rows)

    def _slice(self, row: int, rows: int) -> list[Element]:
        group = bisect.bisect_right(self.starts, row) - 1
        assert rows <= self.starts[group + 1] - row, (row, rows, self.starts)
        found: list[Element] = []
        for batch in self._group(group).slice(row - self.starts[group], rows).to_batches():
            found += self._rows(batch, row + len(found))
        return found

    def _group(self, group: int) -> pa.Table:
        with self._cache.lock:
            table = self._cache.get(group)
            if table is None:
                with opened(self.path, self.identity) as file, _explained(self.path):
                    # One record batch, so that a row's number is its place in it.
                    table = _reader(file).read_row_group(group, columns=list(self.columns), use_threads=False)
                    table = table.combine_chunks()
                self._require_rows(group, table.num_rows)
                self._cache.put(group, table)
            return table

    def _rows(self, batch: pa.RecordBatch, first: int) -> Iterator[Element]:
        try:
            values: list[Any] = batch.to_pylist()
        except Exception:  # One bad text spoils the whole batch: find out which rows can be used.
            values = [_row_or_error(batch, number) for number in range(batch.num_rows)]
        for row, value in enumerate(values, first):
            place = Place(offset=row, size=0, line=row + 1, index=row)
            if isinstance(value, str):
                yield Element(line=row + 1, index=row, error=value, place=place)
                continue
            value.update(self.unread)
            yield Element(line=row + 1, index=row, value=value, place=place)

    def _require_rows(self, group: int, found: int) -> None:
        stated = self.starts[group + 1] - self.starts[group]
        if found != stated:
            message = f"row group {group} holds {found:,} rows, its footer says {stated:,}: the file is damaged"
            raise DataError(Problem(where=printable(str(self.path)), message=message))


def open_parquet(path: Path, identity: FileIdentity) -> ParquetRecordFile:
    """Give the file after reading its footer. Raises DataError if it is damaged, empty, or decodes to too much."""
    where = printable(str(path))
    with open_regular_file(path, error_type=DataError) as file, _explained(path):
        groups = read_footer(file)
        file.seek(0)
        schema = _reader(file).schema_arrow
        names = list(schema.names)
        unread = {each.name: Unread(type_name=str(each.type)) for each in schema if _holds_bytes(each.type)}
    columns = tuple(name for name in names if name not in unread)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(Problem(where=where, message=f"has more than one column {printable(repeated[0], 80)!r}"))
    if not columns:
        raise DataError(Problem(where=where, message="has no column of texts, numbers or lists"))
    sizes = [_decoded_bytes(group, unread) for group in groups]
    largest = max(sizes, default=0)
    if largest > MAX_GROUP_BYTES:
        message = f"decodes to {largest:,} bytes; at most {MAX_GROUP_BYTES:,} are read at once"
        raise DataError(Problem(where=where, message=f"row group {sizes.index(largest)} {message}", fix=_GROUP_FIX))
    starts = tuple(accumulate((group.rows for group in groups), initial=0))
    return ParquetRecordFile(path=path, identity=identity, columns=columns, unread=tuple(unread.items()), starts=starts)


def _reader(file: BinaryIO) -> pq.ParquetFile:
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        text = f"Parquet files are read with pyarrow, which cannot be imported: {error}"
        raise NotInstalledError(f"{text}\n  fix: pip install 'pyarrow>=15,<26'") from None
    return pq.ParquetFile(file, pre_buffer=False)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn whatever pyarrow raises on a damaged file into a DataError."""
    try:
        yield
    except (QvlError, KeyboardInterrupt):
        raise
    except MemoryError:
        message = "cannot be read as Parquet: it asks for more memory than there is"
        raise DataError(Problem(where=printable(str(path)), message=message)) from None
    except Exception as error:  # ArrowException, but also OSError, ValueError, TypeError ... by what is damaged.
        reason = printable(next(iter(str(error).splitlines()), type(error).__name__))
        message = f"cannot be read as Parquet: {reason}"
        raise DataError(Problem(where=printable(str(path)), message=message)) from None


def _row_or_error(batch: pa.RecordBatch, number: int) -> Any:
    try:
        return batch.slice(number, 1).to_pylist()[0]
    except Exception as error:  # A text that is not UTF-8, a number out of range.
        return f"the row cannot be read: {printable(str(error))}"


def _decoded_bytes(group: RowGroup, unread: Mapping[str, Unread]) -> int:
    """Estimate from the footer what the columns of a row group that are read take when they are decoded."""
    read = [column for column in group.columns if column.path[0] not in unread]
    return sum(max(column.bytes, _BYTES_PER_VALUE * column.values) for column in read)


def _holds_bytes(kind: pa.DataType) -> bool:
    """Tell whether a type is, or has inside, bytes that are no text."""
    import pyarrow.types as types

    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return True
    if str(kind) == "binary_view":
        return True
    if types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    storage = getattr(kind, "storage_type", None)
    if storage is not None:
        return _holds_bytes(storage)
    return any(_holds_bytes(kind.field(number).type) for number in range(kind.num_fields))
