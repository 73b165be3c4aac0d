"""Read a tensor's bytes in bounded pieces.

Plain reads, no memory mapping: a file that shrinks while it is read is an error, not a crash.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from qvl_core.errors import RunError
from qvl_core.input_file import open_regular_file
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
            raise RunError(f"{path}: cannot be read at byte {start + len(found):,}: {error.strerror}") from error
        if not more:
            raise RunError(
                f"{path}: changed while it was read: bytes {start:,} to {start + count:,} were described by its "
                f"header, {start + len(found):,} are there now"
            )
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
