"""Read a tensor's bytes in bounded pieces.

Plain reads, no memory mapping: a file that shrinks while it is read is an error, not a crash.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from qvl_core.errors import InputChangedError, RunError
from qvl_core.input_file import open_regular_file, printable
from qvl_core.weights.safetensors_header import TensorEntry

PIECE_BYTES = 8 * 1024**2


def pieces(entry: TensorEntry, *, piece_bytes: int = PIECE_BYTES) -> Iterator[bytes]:
    """Give the tensor's bytes in order, `piece_bytes` at a time. Raises RunError if the file has shrunk."""
    with open_regular_file(entry.file) as file:
        for start in range(entry.start, entry.stop, piece_bytes):
            yield read_exactly(file.fileno(), start, min(piece_bytes, entry.stop - start), entry.file)


def read_exactly(descriptor: int, start: int, count: int, path: Path) -> bytes:
    """Give `count` bytes from `start` of an open file. Raises RunError if they are not there."""
    found = b""
    while len(found) < count:
        try:
            # A read may stop short, for example after 2 GiB; only an empty one is the end of the file.
            more = os.pread(descriptor, count - len(found), start + len(found))
        except OSError as error:
            raise _unreadable(path, start + len(found), error) from error
        if not more:
            raise _shorter(path, start, start + count, start + len(found))
        found = found + more if found else more
    return found


def first_difference(left: TensorEntry, right: TensorEntry) -> int | None:
    """Give the position of the first byte that differs between two tensors of one size, None if they are equal."""
    position = 0
    for one, other in zip(pieces(left), pieces(right), strict=True):
        if one != other:
            return position + next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
        position += len(one)
    return None


def read_into(descriptor: int, start: int, target: memoryview, path: Path) -> None:
    """Fill `target` with the bytes from `start` of an open file. Raises RunError if they are not there."""
    done = 0
    while done < len(target):
        try:
            # A read may stop short, for example after 2 GiB; only an empty one is the end of the file.
            count = os.preadv(descriptor, [target[done:]], start + done)
        except OSError as error:
            raise _unreadable(path, start + done, error) from error
        if not count:
            raise _shorter(path, start, start + len(target), start + done)
        done += count


def _unreadable(path: Path, position: int, error: OSError) -> RunError:
    return RunError(f"{printable(str(path))}: cannot be read at byte {position:,}: {error.strerror}")


def _shorter(path: Path, start: int, stop: int, found: int) -> InputChangedError:
    return InputChangedError(
        f"{printable(str(path))}: changed while it was read: bytes {start:,} to {stop:,} were described by its header, "
        f"{found:,} are there now"
    )
