"""The operations on a disk that durable writing is made of, one function each, and nothing else.

`durable` and the writers of checkpoints call them as `disk.sync(...)`, so that a test can put recording or failing ones
in their place: the power-cut suite replays what it recorded. Errors are plain OSErrors; `durable.explained` words them.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

_BUFFER_BYTES = 1 << 16


def create(path: Path, mode: int) -> int:
    """Give the descriptor of a file that did not exist, open for writing; a symlink there is not followed."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


def join(path: Path, mode: int) -> int:
    """Give the descriptor of a file that several processes write parts of, whichever of them makes it."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


def write(descriptor: int, data: bytes | memoryview) -> int:
    """Write at the descriptor's place; give how many bytes were taken."""
    return os.write(descriptor, data)


def write_at(descriptor: int, data: bytes | memoryview, offset: int) -> int:
    """Write at an offset; give how many bytes were taken."""
    return os.pwrite(descriptor, data, offset)


def resize(descriptor: int, size: int) -> None:
    """Make the file this long; what is added reads as zeros."""
    os.ftruncate(descriptor, size)


def sync(descriptor: int) -> None:
    """Put a file's content on the disk; its name is its folder's to sync."""
    os.fsync(descriptor)


def close(descriptor: int) -> None:
    """Close a descriptor. On a network file system a write may fail only here."""
    os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Put a folder's entries (names of new, renamed and removed files and folders) on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(old: Path, new: Path) -> None:
    """Give a file or folder another name in the same folder, at once; a file, or an empty folder, is replaced."""
    if old.is_dir():
        old.rename(new)
    else:
        old.replace(new)


def unlink(path: Path) -> None:
    """Remove a file or symlink."""
    path.unlink()


def make_folder(path: Path, mode: int) -> None:
    """Make one folder, which must not exist."""
    path.mkdir(mode=mode)


def remove_empty_folder(path: Path) -> None:
    """Remove one folder, which must be empty."""
    path.rmdir()


def buffered(descriptor: int) -> io.BufferedWriter:
    """Give a file object that writes through `write`; closing it closes the descriptor."""
    return io.BufferedWriter(_DiskFile(descriptor), _BUFFER_BYTES)


class _DiskFile(io.RawIOBase):
    """A descriptor as a raw stream whose bytes go through `write` of this module."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, data: Any, /) -> int:
        return write(self._descriptor, data)

    def close(self) -> None:
        if not self.closed:
            try:
                super().close()
            finally:
                close(self._descriptor)
