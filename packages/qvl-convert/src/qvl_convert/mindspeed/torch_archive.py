"""Read the archive that `torch.save` writes: a zip file of stored entries, `<top>/data.pkl` and `<top>/data/<key>`.

The file is not trusted. The directory at its end is found and bounded before it is read, every entry has to be stored
(neither compressed nor encrypted), inside the file, apart from all others and described alike in both of its headers.
The format is that of the PKWARE APPNOTE 6.3.9, sections 4.3 and 4.5.3 (zip64). torch leaves the sizes out of an entry's
own header and repeats them behind its data; MSAdapter, which emulates torch on MindSpore, writes with Python's
`zipfile` and names the top folder `archive`. Both are read.

Checksums of entries are not compared, but for the pickle: torch can be told to leave them out.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from qvl_core.errors import Problem, WeightsError
from qvl_core.input_file import open_regular_file, printable
from qvl_core.weights.file_kind import recognise
from qvl_core.weights.raw_bytes import read_exactly
from qvl_core.weights.safetensors_header import file_stamp

PICKLE = "data.pkl"
# The largest real pickle (72B with the state of a training run) has below 1 MB.
MAX_PICKLE_BYTES = 16 * 1024**2
# The largest real archive has about 1,400 entries.
MAX_ENTRIES = 100_000
MAX_DIRECTORY_BYTES = 16 * 1024**2
MAX_NAME_BYTES = 512

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_SHORT, _LONG = 0xFFFF, 0xFFFFFFFF
_ZIP64_FIELD = 1
# Flags: bits 0, 6 and 13 mean encryption, 5 patched data; 3 sizes behind the data, 11 names in UTF-8.
_ALLOWED_FLAGS = 1 << 3 | 1 << 11
_SIZES_BEHIND = 1 << 3
_BEHIND_LENGTHS = (0, 12, 16, 20, 24)
_OLD_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_AGAIN = "copy the file again from where it was written, and compare its size"
_RESAVE = "save it again with torch 1.6 or newer: torch.save(torch.load(path), path)"


@dataclass(frozen=True, kw_only=True)
class StoredEntry:
    """Where the data of one entry lies: bytes `start` to `stop` of the file."""

    name: str
    start: int
    stop: int
    crc32: int

    @property
    def size(self) -> int:
        """Bytes of the data."""
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class TorchArchive:
    """A checked archive. `entries` are by their name below the top folder, `pickle` is the text of `data.pkl`."""

    file: Path
    entries: Mapping[str, StoredEntry]
    pickle: bytes
    stamp: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class _Listed:
    """An entry as the directory describes it."""

    name: bytes
    header: int
    size: int
    flags: int
    crc32: int


def open_archive(path: Path) -> TorchArchive:
    """Give the checked archive of a file that torch saved. Raises WeightsError, RunError if the file shrinks."""
    with open_regular_file(path, fix=_AGAIN) as file:
        status = os.fstat(file.fileno())
        return _Reader(path, file.fileno(), status.st_size).archive(file_stamp(status))


class _Reader:
    """Reads one open archive; every method raises WeightsError naming the file."""

    def __init__(self, path: Path, descriptor: int, size: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._size = size

    def archive(self, stamp: tuple[int, int, int]) -> TorchArchive:
        self._check_kind()
        count, start, stop = self._directory()
        listed = self._listed(self._read(start, stop - start), count)
        entries = self._entries(listed, start)
        names = self._names_below_top([entry.name for entry in entries])
        by_name: dict[str, StoredEntry] = {}
        for name, entry in zip(names, entries, strict=True):
            if name in by_name:
                self._fail("stands twice in the archive", printable(name, 80))
            by_name[name] = entry
        return TorchArchive(file=self._path, entries=by_name, pickle=self._pickle(by_name), stamp=stamp)

    def _check_kind(self) -> None:
        start = self._read(0, min(512, self._size))
        if self._size == 0:
            self._fail("is empty: 0 bytes")
        if start.startswith(_OLD_MAGIC) or start[257:262] == b"ustar":
            self._fail("is in torch's format from before version 1.6, which is not read", fix=_RESAVE)
        if start.startswith(b"PK\x03\x04"):
            return
        known = recognise(start)
        self._fail(known.message if known else "is not an archive that torch.save wrote: it does not begin with PK")

    def _directory(self) -> tuple[int, int, int]:
        """Give the number of entries and the first and last byte of the directory."""
        at = self._size - _END.size
        if at < 0:
            self._fail(f"is truncated: {self._size} bytes")
        magic, disk, first_disk, here, count, length, start, comment = _END.unpack(self._read(at, _END.size))
        if magic != b"PK\x05\x06" or comment:
            self._fail("is truncated, or has bytes behind its end: an archive's last 22 bytes are not its end record")
        stop = at
        if (found := self._zip64(at)) is not None:
            short = (here, count, length, start)
            here, count, length, start, stop = found
            for value, limit, whole in zip(short, (_SHORT, _SHORT, _LONG, _LONG), found, strict=False):
                if value not in (limit, whole):
                    self._fail(f"has two end records that disagree: {value} and {whole}")
        if disk or first_disk or here != count:
            self._fail("is one part of an archive in several parts")
        if not 0 < count <= MAX_ENTRIES:
            self._fail(f"states {count:,} entries; 1 to {MAX_ENTRIES:,} are read")
        if length > MAX_DIRECTORY_BYTES:
            self._fail(f"states a directory of {length:,} bytes; at most {MAX_DIRECTORY_BYTES:,} are read")
        if start + length != stop:
            self._fail(f"states a directory in bytes {start:,} to {start + length:,}; it has to end at {stop:,}")
        return count, start, stop

    def _zip64(self, end: int) -> tuple[int, int, int, int, int] | None:
        """Give (entries here, entries, length, start, stop) of the directory by the zip64 records, if there are any."""
        at = end - _LOCATOR.size
        if at < _END64.size:
            return None
        magic, disk, record, disks = _LOCATOR.unpack(self._read(at, _LOCATOR.size))
        if magic != b"PK\x06\x07":
            return None
        if disk or disks != 1 or record != at - _END64.size:
            self._fail(f"has a zip64 end record at byte {record:,}; it has to be at {at - _END64.size:,}")
        fields = _END64.unpack(self._read(record, _END64.size))
        if fields[0] != b"PK\x06\x06" or fields[1] != _END64.size - 12 or fields[4] or fields[5]:
            self._fail("has a damaged zip64 end record")
        here, count, length, start = fields[6:]
        return here, count, length, start, record

    def _listed(self, data: bytes, count: int) -> list[_Listed]:
        found, at = [], 0
        for _ in range(count):
            if at + _CENTRAL.size > len(data):
                self._fail("has a directory that ends inside an entry")
            fields = _CENTRAL.unpack_from(data, at)
            name_length, extra_length, comment_length = fields[10:13]
            stop = at + _CENTRAL.size + name_length + extra_length + comment_length
            if fields[0] != b"PK\x01\x02" or stop > len(data) or not 0 < name_length <= MAX_NAME_BYTES:
                self._fail(f"has a damaged directory, at its byte {at:,}")
            name_stop = at + _CENTRAL.size + name_length
            name = data[at + _CENTRAL.size : name_stop]
            found.append(self._one_listed(name, fields, data[name_stop : name_stop + extra_length]))
            at = stop
        if at != len(data):
            self._fail(f"has {len(data) - at:,} bytes of directory behind its last entry")
        return found

    def _one_listed(self, name: bytes, fields: tuple[int, ...], extra: bytes) -> _Listed:
        flags, method, crc, packed, size, disk, header = (fields[i] for i in (3, 4, 7, 8, 9, 13, 16))
        if method != 0:
            self._fail("is compressed; torch stores entries as they are", name, fix=_RESAVE)
        if flags & ~_ALLOWED_FLAGS:
            self._fail(f"has the flags {flags:#06x}: encrypted, or of a kind that torch never writes", name)
        # Each value that does not fit stands in the zip64 field, in this order.
        wide = self._zip64_values(name, extra, sum(value == _LONG for value in (size, packed, header)))
        size = wide.pop(0) if size == _LONG else size
        packed = wide.pop(0) if packed == _LONG else packed
        header = wide.pop(0) if header == _LONG else header
        if size != packed or disk:
            self._fail(f"is stored, but states {packed:,} bytes in the file for {size:,}", name)
        return _Listed(name=name, header=header, size=size, flags=flags, crc32=crc)

    def _zip64_values(self, name: bytes, extra: bytes, wanted: int) -> list[int]:
        at = 0
        while wanted and at + 4 <= len(extra):
            kind, length = struct.unpack_from("<2H", extra, at)
            field = extra[at + 4 : at + 4 + length]
            if kind == _ZIP64_FIELD and len(field) == length and length >= 8 * wanted:
                return list(struct.unpack_from(f"<{wanted}Q", field))
            at += 4 + length
        if wanted:
            self._fail("lacks the zip64 field that its sizes announce", name)
        return []

    def _entries(self, listed: list[_Listed], directory: int) -> list[StoredEntry]:
        """Give the entries in the order of their bytes, which have to follow each other without a hole."""
        entries: list[StoredEntry] = []
        position = 0
        behind: tuple[int, ...] = (0,)
        for one in sorted(listed, key=lambda item: item.header):
            if one.header - position not in behind:
                how = "overlaps" if one.header < position else "leaves unused bytes behind"
                message = f"begins at byte {one.header:,} and {how} the entry before, which ends at {position:,}"
                self._fail(message, one.name)
            if one.header + _LOCAL.size > directory:
                self._fail(f"begins at byte {one.header:,}, behind the last entry", one.name)
            start = self._data_start(one)
            position = start + one.size
            if position > directory:
                self._fail(f"ends at byte {position:,}, behind the last entry, {directory:,}", one.name)
            behind = _BEHIND_LENGTHS if one.flags & _SIZES_BEHIND else (0,)
            entries.append(StoredEntry(name=self._text(one.name), start=start, stop=position, crc32=one.crc32))
        if directory - position not in behind:
            self._fail(f"has {directory - position:,} bytes between its last entry and its directory")
        return entries

    def _data_start(self, one: _Listed) -> int:
        """Give the first byte of an entry's data, once its own header agrees with the directory."""
        fields = _LOCAL.unpack(self._read(one.header, _LOCAL.size))
        magic, _, flags, method, _, _, crc, packed, size, name_length, extra_length = fields
        name = self._read(one.header + _LOCAL.size, min(name_length, MAX_NAME_BYTES))
        if magic != b"PK\x03\x04" or (method, flags, name) != (0, one.flags, one.name):
            self._fail("is described differently by the directory and by its own header", one.name)
        left_out = bool(one.flags & _SIZES_BEHIND)
        for value, whole in ((packed, one.size), (size, one.size), (crc, one.crc32)):
            wide = whole == one.size and value == _LONG
            if value != whole and not wide and not (left_out and value == 0):
                self._fail(f"has {value:,} in its own header and {whole:,} in the directory", one.name)
        return one.header + _LOCAL.size + name_length + extra_length

    def _names_below_top(self, names: list[str]) -> list[str]:
        tops = {name.partition("/")[0] for name in names if "/" in name}
        if len(tops) != 1 or not all("/" in name for name in names):
            self._fail("has no single top folder; torch puts all entries into one")
        return [name.partition("/")[2] for name in names]

    def _pickle(self, entries: Mapping[str, StoredEntry]) -> bytes:
        if "constants.pkl" in entries:
            self._fail("is a TorchScript program, not a checkpoint")
        if PICKLE not in entries:
            self._fail(f"has no {PICKLE}: not an archive that torch.save wrote")
        order = entries.get("byteorder")
        if order is not None and self._read(order.start, min(order.size, 20)) != b"little":
            self._fail("was written on a machine of another byte order; only little-endian files are read")
        entry = entries[PICKLE]
        if entry.size > MAX_PICKLE_BYTES:
            self._fail(f"has {entry.size:,} bytes; at most {MAX_PICKLE_BYTES:,} are read", PICKLE)
        data = self._read(entry.start, entry.size)
        # 0 is what torch writes where checksums are turned off.
        if entry.crc32 not in (0, zlib.crc32(data)):
            self._fail("is damaged: it does not have the checksum that the archive records", PICKLE)
        return data

    def _text(self, name: bytes) -> str:
        text = name.decode("ascii", "replace")
        parts = text.split("/")
        if not (text.isascii() and text.isprintable() and "\\" not in text and all(parts)) or {".", ".."} & set(parts):
            self._fail("is not the name of an entry that torch writes", printable(text, 80))
        return text

    def _read(self, start: int, count: int) -> bytes:
        if start < 0 or start + count > self._size:
            self._fail(f"is truncated: bytes {start:,} to {start + count:,} are needed, it has {self._size:,}")
        return read_exactly(self._descriptor, start, count, self._path)

    def _fail(self, message: str, key: bytes | str = "", fix: str = _AGAIN) -> NoReturn:
        shown = key if isinstance(key, str) else printable(key.decode("ascii", "replace"), 80)
        raise WeightsError(Problem(where=printable(str(self._path)), key=shown, message=message, fix=fix))
