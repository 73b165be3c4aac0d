"""A JSON or JSON Lines file on the disk: opened, recognised, checked not to change, read at a place."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from qvl_core.errors import DataError, InputChangedError, Problem
from qvl_core.input_file import open_regular_file, printable, readable
from qvl_core.json_file import JsonError

from qvl_data.records.element import Element, Place
from qvl_data.records.strict_json import MAX_RECORD_BYTES, NotUtf8Error, parse_record

CHUNK_BYTES = 1024**2
UTF8_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True)
class FileIdentity:
    """Size in bytes and time of the last change: another pair is another content."""

    size: int
    changed_ns: int


def identity_of(file: BinaryIO) -> FileIdentity:
    """Give the identity of an open file."""
    status = os.fstat(file.fileno())
    return FileIdentity(size=status.st_size, changed_ns=status.st_mtime_ns)


@contextmanager
def opened(path: Path, identity: FileIdentity) -> Iterator[BinaryIO]:
    """Open a file that was looked at before. Raises InputChangedError if it has changed, also while it is read."""
    with open_regular_file(path, error_type=DataError) as file:
        _require_same(path, file, identity)
        try:
            yield file
        except OSError as error:
            message = f"cannot be read: {error.strerror or error}"
            raise DataError(Problem(where=printable(str(path)), message=message)) from None
        _require_same(path, file, identity)


def digest_of(path: Path, identity: FileIdentity) -> str:
    """Give the sha256 of a file's bytes, as hexadecimal text."""
    total = hashlib.sha256()
    with opened(path, identity) as file:
        while chunk := file.read(CHUNK_BYTES):
            total.update(chunk)
    return total.hexdigest()


def read_element(
    path: Path, identity: FileIdentity, place: Place, *, one_line: bool, shares_line: bool = False
) -> Element:
    """Give the record at a place, reading nothing else of the file."""
    with opened(path, identity) as file:
        file.seek(place.offset)
        data = file.read(place.size)
    return parse_element_text(data, place, one_line=one_line, shares_line=shares_line)


def parse_element_text(
    data: bytes, place: Place, *, one_line: bool, shares_line: bool = False, is_cut: bool = False
) -> Element:
    """Give the element of the text of one record, with its error where it cannot be read."""
    line = None if one_line else place.line
    try:
        value = parse_record(data, offset=place.offset, line=line, is_first_on_line=not shares_line)
    except JsonError as error:
        message = f"{error}; the file ends inside this record: it is truncated" if is_cut else str(error)
        fix = error.fix if isinstance(error, NotUtf8Error) else ""
        return Element(line=place.line, index=place.index, error=message, fix=fix, shares_line=shares_line, place=place)
    return Element(line=place.line, index=place.index, value=value, shares_line=shares_line, place=place)


def too_long(place: Place, *, shares_line: bool = False) -> Element:
    """Give the element that stands for a record too long to be held in memory."""
    message = (
        f"the record that starts here is longer than {MAX_RECORD_BYTES:,} bytes; "
        "a record holds text and paths of media, and a line end or a quote may be missing"
    )
    return Element(line=place.line, index=place.index, error=message, shares_line=shares_line, place=place)


def is_folder(path: Path) -> bool:
    """Tell whether a path is a folder, links followed. Raises DataError if it cannot be looked at."""
    with readable(path, error_type=DataError):
        try:
            return stat.S_ISDIR(path.stat().st_mode)
        except FileNotFoundError:
            message = "there is no such file or folder"
            raise DataError(Problem(where=printable(str(path)), message=message)) from None


def _require_same(path: Path, file: BinaryIO, identity: FileIdentity) -> None:
    if identity_of(file) != identity:
        raise InputChangedError(f"{printable(str(path))}: the file was changed while it was in use; start again")
