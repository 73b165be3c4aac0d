"""Writers of sharegpt records, one at a time: a JSON array with one record a line, JSON Lines, Parquet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from qvl_core.errors import DataError, NotInstalledError, OutputError, Problem
from qvl_core.input_file import printable

from qvl_data.records.messages import text_of
from qvl_data.records.objects import objects_of
from qvl_data.records.record import MediaKind, Record, Role

if TYPE_CHECKING:
    import pyarrow as pa

# Small groups, so that a row read at its place costs little.
_GROUP_ROWS = 1000
_ROLES: dict[Role, str] = {"system": "system", "user": "user", "assistant": "assistant", "tool": "observation"}


class RecordWriter(Protocol):
    """Takes records in order; the file is whole when the block of `record_writer` ends."""

    def write(self, record: Record) -> None:
        """Append one record. Raises DataError if the format cannot hold it."""

    def close(self) -> None:
        """Write what is left and the file's end."""


def sharegpt_of(record: Record, media_prefix: str = "") -> dict[str, Any]:
    """Give a record as sharegpt object: `messages`, `images`, and `videos` and `objects` where there are any.

    Raises DataError for a text with `<image>` or `<video>` in it, which there would stand for a medium.
    """
    for number, turn in enumerate(record.turns):
        marker = next((each for each in ("<image>", "<video>") for text in turn.texts if each in text), "")
        if marker:
            message = f"message {number} holds the text {marker}, which would stand for a medium in the written file"
            raise DataError(Problem(where=record.where, message=message, fix="write it another way, or leave it out"))
    messages = [{"role": _ROLES[turn.role], "content": text_of(turn)} for turn in record.turns]
    found: dict[str, Any] = {"messages": messages, "images": _paths(record, "image", media_prefix)}
    videos = _paths(record, "video", media_prefix)
    if videos:
        found["videos"] = videos
    if record.regions:
        found["objects"] = objects_of(record)
    return found


@contextmanager
def record_writer(target: Path, file: BinaryIO, media_prefix: str = "") -> Iterator[RecordWriter]:
    """Give the writer of the kind that the target's suffix names, writing to an open file."""
    writers: dict[str, Callable[[BinaryIO, str], RecordWriter]] = {
        ".json": _ArrayWriter,
        ".jsonl": _LinesWriter,
        ".parquet": _ParquetWriter,
    }
    writer = writers[checked_suffix(target)](file, media_prefix)
    try:
        yield writer
    except BaseException:
        # A writer that is thrown away open would write to the closed file, and say so on stderr.
        with suppress(Exception):
            writer.close()
        raise
    writer.close()


def checked_suffix(target: Path) -> str:
    """Give the suffix of a file that can be written. Raises OutputError for another one."""
    if target.suffix not in (".json", ".jsonl", ".parquet"):
        message = f"ends in {target.suffix!r}; the ending says what is written: .json, .jsonl or .parquet"
        raise OutputError(Problem(where=printable(str(target)), message=message))
    return target.suffix


def _paths(record: Record, kind: MediaKind, media_prefix: str) -> list[str]:
    start = f"{media_prefix.rstrip('/')}/" if media_prefix else ""
    return [start + medium.written for medium in record.media if medium.kind == kind]


class _LinesWriter:
    _before_first, _between, _after_last = "", "\n", "\n"

    def __init__(self, file: BinaryIO, media_prefix: str) -> None:
        self._file, self._media_prefix = file, media_prefix
        self._separator = self._before_first

    def write(self, record: Record) -> None:
        text = json.dumps(sharegpt_of(record, self._media_prefix), ensure_ascii=False)
        self._file.write((self._separator + text).encode())
        self._separator = self._between

    def close(self) -> None:
        self._file.write(self._after_last.encode())


class _ArrayWriter(_LinesWriter):
    _before_first, _between, _after_last = "[\n", ",\n", "\n]\n"


class _ParquetWriter:
    def __init__(self, file: BinaryIO, media_prefix: str) -> None:
        try:
            import pyarrow.parquet as pq
        except ImportError as error:
            text = f"Parquet files are written with pyarrow, which cannot be imported: {error}"
            raise NotInstalledError(f"{text}\n  fix: pip install 'pyarrow>=15,<26'") from None
        self._media_prefix = media_prefix
        self._schema = _schema()
        self._writer = pq.ParquetWriter(file, self._schema)
        self._rows: list[dict[str, Any]] = []

    def write(self, record: Record) -> None:
        self._rows.append({"videos": [], **sharegpt_of(record, self._media_prefix)})
        if len(self._rows) == _GROUP_ROWS:
            self._write_rows()

    def close(self) -> None:
        self._write_rows()
        self._writer.close()

    def _write_rows(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
            self._rows = []


def _schema() -> pa.Schema:
    import pyarrow as pa

    numbers = pa.list_(pa.list_(pa.float64()))
    objects = pa.struct(
        [("bbox", numbers), ("point", numbers), ("medium", pa.list_(pa.int32())), ("frame", pa.string())]
    )
    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    paths = pa.list_(pa.string())
    return pa.schema([("messages", pa.list_(message)), ("images", paths), ("videos", paths), ("objects", objects)])
