"""Vision features that were computed once and are kept: a file for each image or video, named by what went into it.

A folder of the store holds what one vision tower makes (`folder_name`), a file in it the merger's output for one
medium, rows in its window order, and for a video of variable frame rate the times that only its decoding has told. A
file is complete or not there, and its checksum covers name, sizes and numbers: what is not whole is never used. Several
processes may write at once, of one run or of several. Nothing is synced to the disk: after a power cut a file that is
not whole is computed again, and a million syncs would cost hours.

Legend: U merged units, E text width.
"""

from __future__ import annotations

import hashlib
import json
import struct
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvl_core import disk
from qvl_core.durable import FILE_MODE, TEMPORARY_MARK, atomic_write, explained, make_folder
from qvl_core.errors import DataError, RunError
from qvl_core.input_file import open_regular_file, printable

# The last character is the version of the format.
MAGIC = b"QVLFEAT1"
# Magic, rows, width, times, dtype; then a SHA-256 of the key, of these and of the numbers; then the numbers: float64
# times, features; little-endian.
_HEAD = struct.Struct("<8sIII8s")
_TIME_BYTES = 8
_CHECKSUM_BYTES = 32
HEADER_BYTES = _HEAD.size + _CHECKSUM_BYTES
# numpy has no bfloat16: its bit patterns.
_KINDS: Mapping[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
}
_BLOCK_BYTES = 4096
# No write of one file takes this long: a temporary file that old is a dead process's.
_LEFT_BEHIND_S = 3600.0
_ABOUT_NAME = "about.json"


class DamagedFeaturesError(RunError):
    """A file of the store that is missing or not whole."""


def folder_name(about: Mapping[str, Any]) -> str:
    """Give the name of the folder for what `about` says of the vision tower; any other value is another name."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What a file holds: features [U, E], and float64 times in seconds, as many as were written."""

    features: NDArray[np.generic]
    times: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FeatureStore:
    """The files of one vision tower. `width` is E; keys are hexadecimal SHA-256 sums (`qvl_data.media.features`).

    Whoever reads knows how many rows and times there are.
    """

    folder: Path
    width: int
    dtype: str

    def path(self, key: str) -> Path:
        """Give the file of a medium."""
        return self.folder / key[:2] / f"{key}.features"

    def disk_bytes(self, rows: int, times: int = 0) -> int:
        """Give what the file of a medium takes on a disk of blocks of 4 KiB."""
        return -(-self._size(rows, times) // _BLOCK_BYTES) * _BLOCK_BYTES

    def read(self, key: str, rows: int, times: int = 0) -> Kept:
        """Give what is kept of a medium. Raises DamagedFeaturesError if its file is missing or not whole."""
        found = self.look(key, rows, times)
        if isinstance(found, str):
            raise DamagedFeaturesError(
                f"{printable(str(self.path(key)))}: {found}; it was whole when the training began\n"
                "  fix: run the same command again: what is damaged is computed anew"
            )
        return found

    def write(self, key: str, features: NDArray[np.generic], times: NDArray[np.float64] | None = None) -> None:
        """Keep the features of a medium. Raises OutputError or DiskError if the disk does not take them."""
        target = self.path(key)
        content = np.ascontiguousarray(features).view(_KINDS[self.dtype])
        assert content.ndim == 2, content.shape
        assert content.shape[1] == self.width, (content.shape, self.width)
        seconds = np.zeros(0, "<f8") if times is None else np.ascontiguousarray(times, "<f8")
        head = _HEAD.pack(MAGIC, content.shape[0], self.width, len(seconds), self.dtype.encode())
        parts = (seconds.tobytes(), content.data.cast("B"))
        temporary = target.with_name(f".{key[:16]}{TEMPORARY_MARK}{uuid.uuid4().hex[:12]}")
        with explained(target):
            make_folder(target.parent)
            try:
                with disk.buffered(disk.create(temporary, FILE_MODE)) as file:
                    file.write(head + _checksum(key, head, *parts))
                    for part in parts:
                        file.write(part)
                disk.rename(temporary, target)
            except BaseException:
                with suppress(FileNotFoundError):
                    disk.unlink(temporary)
                raise

    def open(self, about: Mapping[str, Any]) -> None:
        """Make the folder ready for `write`: say in it what it is, and remove what dead processes left behind.

        Raises OutputError if nothing can be written there.
        """
        with explained(self.folder):
            make_folder(self.folder)
            if not (self.folder / _ABOUT_NAME).is_file():
                atomic_write(self.folder / _ABOUT_NAME, json.dumps(about, indent=1, sort_keys=True))
            for path in self.folder.glob(f"*/.*{TEMPORARY_MARK}*"):
                with suppress(FileNotFoundError):
                    if path.lstat().st_mtime < time.time() - _LEFT_BEHIND_S:
                        disk.unlink(path)

    def look(self, key: str, rows: int, times: int = 0) -> Kept | str:
        """Give what is kept of a medium, or say what is wrong with its file; all of it is read."""
        size = self._size(rows, times)
        try:
            with open_regular_file(self.path(key), error_type=DataError) as file:
                # One byte more than there should be: a longer file is noticed, and never read whole.
                data = file.read(size + 1)
        except DataError as error:
            return error.problems[0].message
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        if len(data) != size:
            return f"has {'more than ' if len(data) > size else ''}{min(len(data), size):,} bytes, expected {size:,}"
        head = _HEAD.pack(MAGIC, rows, self.width, times, self.dtype.encode())
        if data[:HEADER_BYTES] != head + _checksum(key, head, memoryview(data)[HEADER_BYTES:]):
            return "its content does not match its checksum"
        features = np.frombuffer(data, _KINDS[self.dtype], offset=HEADER_BYTES + times * _TIME_BYTES)
        return Kept(
            features=features.reshape(rows, self.width),
            times=np.frombuffer(data, "<f8", count=times, offset=HEADER_BYTES),
        )

    def _size(self, rows: int, times: int) -> int:
        return HEADER_BYTES + times * _TIME_BYTES + rows * self.width * _KINDS[self.dtype].itemsize


def _checksum(key: str, head: bytes, *numbers: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(key.encode())
    for part in (head, *numbers):
        digest.update(part)
    return digest.digest()
