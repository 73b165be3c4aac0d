"""Files of records: recognised by their content, read as a stream or at a place, never held in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from qvl_core.errors import DataError, Problem
from qvl_core.input_file import open_regular_file, printable, readable

from qvl_data.records.element import Block, Element, Place
from qvl_data.records.json_array import JsonArrayFile
from qvl_data.records.json_lines import LIST_FIX, JsonLinesFile, Progress
from qvl_data.records.parquet import GroupCache, open_parquet
from qvl_data.records.parquet_footer import PARQUET_MAGIC
from qvl_data.records.text_file import CHUNK_BYTES, UTF8_MARK, identity_of, is_folder

_PACKED = (
    (b"\x1f\x8b", "gunzip"),
    (b"PK\x03\x04", "unzip"),
    (b"\x28\xb5\x2f\xfd", "zstd -d"),
    (b"BZh", "bunzip2"),
    (b"\xfd7zXZ", "unxz"),
)
SUFFIXES = (".json", ".jsonl", ".parquet")
# A byte-order mark of UTF-32 starts as one of UTF-16 does: the longer ones come first.
_OTHER_MARKS = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


class RecordFile(Protocol):
    """A file of records. Safe to use from several threads, can be pickled, holds no record in memory.

    A file that is changed while it is in use raises InputChangedError.
    """

    @property
    def path(self) -> Path:
        """The file."""

    def elements(self) -> Iterator[Element]:
        """Give every record in file order, each with its place; one that cannot be read has its `error`.

        Raises DataError if the file as a whole cannot be read. A file may hold no record at all.
        """

    def read(self, place: Place) -> Element:
        """Give the record at a place that this file gave."""

    def digest(self) -> str:
        """Give the sha256 of the file's bytes, as hexadecimal text. Reads all of the file."""

    def blocks(self, rows: int, progress: Progress | None = None) -> tuple[Block, ...]:
        """Cut the file into blocks of about `rows` records in file order, without parsing any.

        JSON Lines: exactly `rows` but for the last. Parquet: at most `rows`, never across row groups.
        Raises DataError for a JSON array, whose records cannot be found that way.
        """

    def read_block(self, block: Block) -> list[Element]:
        """Give the records of a block."""


def open_record_files(path: Path, cache: GroupCache | None = None) -> list[RecordFile]:
    """Give the record files of a path: the file itself, or a folder's *.json, *.jsonl and *.parquet by name.

    Parquet files share a cache of what was decoded last: `cache`, or one of these files alone.

    Raises DataError for what is missing, no regular file, empty, not UTF-8, or neither a list of records, JSON Lines
    nor Parquet; for a folder with everything that is wrong with its files.
    """
    if not is_folder(path):
        return [open_record_file(path, cache)]
    with readable(path, error_type=DataError):
        names = sorted(entry.name for entry in path.iterdir() if entry.suffix in SUFFIXES)
    if not names:
        message = f"the folder holds no file of records: nothing named {', '.join('*' + each for each in SUFFIXES)}"
        raise DataError(Problem(where=printable(str(path)), message=message))
    cache = cache or GroupCache()
    files: list[RecordFile] = []
    problems: list[Problem] = []
    for name in names:
        try:
            files.append(open_record_file(path / name, cache))
        except DataError as error:
            problems.extend(error.problems)
    if problems:
        raise DataError(problems)
    return files


def open_record_file(path: Path, cache: GroupCache | None = None) -> RecordFile:
    """Give one record file, its kind told by its content. Raises DataError."""
    where = printable(str(path))
    with open_regular_file(path, error_type=DataError) as file:
        identity = identity_of(file)
        head = file.read(len(PARQUET_MAGIC))
        if head == PARQUET_MAGIC:
            return open_parquet(path, identity, cache)
        start = len(UTF8_MARK) if head.startswith(UTF8_MARK) else 0
        file.seek(start)
        while (chunk := file.read(CHUNK_BYTES)) and not chunk.strip():
            pass
    text = chunk.lstrip()
    _refuse_packed(head, where)
    _refuse_encoding(head, text, where)
    if not text:
        message = "the file is empty: 0 records" if not identity.size else "the file holds only white space: 0 records"
        raise DataError(Problem(where=where, message=message))
    first = text[:1]
    if first == b"[":
        return JsonArrayFile(path=path, identity=identity, start=start)
    if first == b"{":
        return JsonLinesFile(path=path, identity=identity, start=start)
    message = f"holds neither a JSON array, nor JSON Lines, nor Parquet: it starts with {text[:12]!r}"
    raise DataError(Problem(where=f"{where}:1", message=message, fix=LIST_FIX))


def _refuse_packed(head: bytes, where: str) -> None:
    program = next((program for magic, program in _PACKED if head.startswith(magic)), "")
    if program:
        message = f"is a packed file: it starts as those of {program.split()[0]} do; records are read unpacked"
        raise DataError(Problem(where=where, message=message, fix=f"{program} FILE"))


def _refuse_encoding(head: bytes, text: bytes, where: str) -> None:
    encoding = next((name for mark, name in _OTHER_MARKS if head.startswith(mark)), "")
    if not encoding and b"\0" in text[:4]:
        # Without a mark: the zero bytes of the first letters.
        encoding = "UTF-16" if text[:4].count(b"\0") < 3 else "UTF-32"
    if encoding:
        fix = f"iconv -f {encoding} -t UTF-8 FILE > NEW_FILE"
        raise DataError(Problem(where=where, message=f"not UTF-8: it starts as {encoding} does", fix=fix))
