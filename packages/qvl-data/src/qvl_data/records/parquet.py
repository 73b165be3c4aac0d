"""Parquet files: rows as records, decoded row group by row group, struct and list columns as Python objects.

Columns of bytes (images stored in the file) are never decoded; a record has an `Unread` in their place.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from qvl_core.errors import DataError, InputChangedError, NotInstalledError, Problem, QvlError
from qvl_core.input_file import open_regular_file, printable

from qvl_data.records.element import Block, Element, Place, Unread
from qvl_data.records.json_lines import Progress
from qvl_data.records.parquet_footer import read_footer
from qvl_data.records.text_file import FileIdentity, digest_of, opened

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# Decoded at once where a row is read at its place, so a bound on memory; by the file's own statement, checked before.
MAX_GROUP_BYTES = 1024**3
# A repeated value costs nearly nothing in the file and at least this much decoded.
_BYTES_PER_VALUE = 8
# Rows decoded at once: fewer where a value may be so long that many of them, the same one repeated, would be too much.
_BATCH_ROWS = 256
_BATCH_BYTES = 64 * 1024**2
_CACHED_BYTES = 256 * 1024**2
_GROUP_FIX = 'pyarrow.parquet.write_table(table, "NEW.parquet", row_group_size=1000)'


class GroupCache:
    """The row groups that were decoded last, of all files that share it: up to `_CACHED_BYTES`, at least one group.

    Pickles as empty.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._tables: dict[tuple[Path, int], pa.Table] = {}

    def __reduce__(self) -> tuple[type[GroupCache], tuple[()]]:
        return (GroupCache, ())

    def get(self, path: Path, group: int) -> pa.Table | None:
        """Give a group, which becomes the last one to go."""
        table = self._tables.pop((path, group), None)
        if table is not None:
            self._tables[path, group] = table
        return table

    def put(self, path: Path, group: int, table: pa.Table) -> None:
        """Keep a group and let go of those used longest ago."""
        self._tables[path, group] = table
        while len(self._tables) > 1 and sum(each.nbytes for each in self._tables.values()) > _CACHED_BYTES:
            del self._tables[next(iter(self._tables))]


@dataclass(frozen=True, kw_only=True)
class ParquetRecordFile:
    """A Parquet file. `starts[g]` is the first row of row group g, the last entry the number of rows.

    `batches[g]` is how many of its rows are decoded at once.
    """

    path: Path
    identity: FileIdentity
    columns: tuple[str, ...]
    unread: tuple[tuple[str, Unread], ...]
    starts: tuple[int, ...]
    batches: tuple[int, ...]
    cache: GroupCache = field(default_factory=GroupCache, repr=False, compare=False)

    def elements(self) -> Iterator[Element]:
        """Give every row in order. Raises DataError where the file is damaged."""
        with opened(self.path, self.identity) as file:
            with _explained(self.path):
                reader = _reader(file)
            for group, row in enumerate(self.starts[:-1]):
                for batch in self._batches(reader, group):
                    yield from self._rows(batch, row)
                    row += batch.num_rows

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
        if row + rows > self.starts[-1]:
            message = f"holds {self.starts[-1]:,} rows, and row {row + rows:,} was there before: it was changed"
            raise InputChangedError(f"{printable(str(self.path))}: {message}; start again")
        group = bisect.bisect_right(self.starts, row) - 1
        assert rows <= self.starts[group + 1] - row, (row, rows, self.starts)
        found: list[Element] = []
        for batch in self._group(group).slice(row - self.starts[group], rows).to_batches():
            found += self._rows(batch, row + len(found))
        return found

    def _group(self, group: int) -> pa.Table:
        with self.cache.lock:
            table = self.cache.get(self.path, group)
            if table is None:
                table = self._decoded(group)
                self.cache.put(self.path, group, table)
            return table

    def _decoded(self, group: int) -> pa.Table:
        import pyarrow as pa

        parts: list[pa.RecordBatch] = []
        size = 0
        with opened(self.path, self.identity) as file:
            with _explained(self.path):
                reader = _reader(file)
            for batch in self._batches(reader, group):
                parts.append(batch)
                size += batch.nbytes
                if size > MAX_GROUP_BYTES:
                    # Not what its footer led to expect: few values, repeated many times.
                    raise _too_large(printable(str(self.path)), group, f"more than {MAX_GROUP_BYTES:,}")
        return pa.Table.from_batches(parts, reader.schema_arrow.empty_table().select(self.columns).schema)

    def _batches(self, reader: pq.ParquetFile, group: int) -> Iterator[pa.RecordBatch]:
        """Decode a row group, some rows at a time. Raises DataError where it is damaged."""
        batches = reader.iter_batches(
            self.batches[group], row_groups=[group], columns=list(self.columns), use_threads=False
        )
        rows = 0
        while True:
            with _explained(self.path):
                batch = next(batches, None)
            if batch is None:
                self._require_rows(group, rows)
                return
            rows += batch.num_rows
            yield batch

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


def open_parquet(path: Path, identity: FileIdentity, cache: GroupCache | None = None) -> ParquetRecordFile:
    """Give the file after reading its footer; files may share a cache of decoded groups.

    Raises DataError if it is damaged, empty, or decodes to too much.
    """
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
    read = [tuple(column for column in group.columns if column.path[0] not in unread) for group in groups]
    sizes = [sum(max(column.bytes, _BYTES_PER_VALUE * column.values) for column in each) for each in read]
    largest = max(sizes, default=0)
    if largest > MAX_GROUP_BYTES:
        raise _too_large(where, sizes.index(largest), f"{largest:,}")
    starts = tuple(accumulate((group.rows for group in groups), initial=0))
    longest = (max((column.bytes for column in each), default=0) for each in read)
    return ParquetRecordFile(
        path=path,
        identity=identity,
        columns=columns,
        unread=tuple(unread.items()),
        starts=starts,
        batches=tuple(max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, size))) for size in longest),
        cache=cache or GroupCache(),
    )


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


def _too_large(where: str, group: int, size: str) -> DataError:
    message = f"row group {group} decodes to {size} bytes; at most {MAX_GROUP_BYTES:,} are read at once"
    return DataError(Problem(where=where, message=message, fix=_GROUP_FIX))


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
