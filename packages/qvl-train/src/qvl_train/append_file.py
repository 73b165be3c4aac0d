"""A file that grows by whole records: on a full disk a record is there or not, never a part of it."""

from __future__ import annotations

import os
from pathlib import Path

from qvl_core.durable import FILE_MODE, explained


class AppendFile:
    """Opens the file for appending, made where it is missing. Not synced: after a power cut its end may be missing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with explained(path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, FILE_MODE)

    def append(self, record: bytes) -> None:
        """Append a record. Raises DiskError where it does not fit, and takes back what did."""
        with explained(self._path):
            before = os.fstat(self._descriptor).st_size
            rest = memoryview(record)
            try:
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
            except OSError:
                # Half a record would hide the records after it.
                os.ftruncate(self._descriptor, before)
                raise

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
