"""Read whole tensors from the files that hold them: any rows of one, in memory for one block, and compare checksums.

A file that is written to or replaced meanwhile is an error, not a mixture of old and new.
"""

from __future__ import annotations

import hashlib
import os
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from qvl_core.errors import InputChangedError, Problem, WeightsError
from qvl_core.input_file import open_regular_file, printable
from qvl_core.weights.raw_bytes import read_into
from qvl_core.weights.safetensors_header import file_stamp
from qvl_core.weights.safetensors_writer import TensorToWrite
from qvl_core.weights.whole_tensors import COPY_ANEW, Input, Part, Piece, Stamp, WholeTensor

# Small enough for a core's cache: with 4 MiB the kernel's copies take three times the processor time.
BLOCK_BYTES = 1024**2


class OpenFiles:
    """The files of a source, each opened once: `with OpenFiles(source.inputs) as files`. Threads may share it."""

    def __init__(self, inputs: tuple[Input, ...]) -> None:
        self._stamps = {one.path: one.stamp for one in inputs}
        self._files: dict[Path, BinaryIO] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> OpenFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            for file in self._files.values():
                file.close()
            self._files.clear()

    def descriptor(self, path: Path) -> int:
        """Give the open file. Raises InputChangedError if it is not the file that it was when the folder was opened."""
        with self._lock:
            if path not in self._files:
                self._files[path] = self._opened(path)
            return self._files[path].fileno()

    def require_unchanged(self) -> None:
        """Raise InputChangedError if a file was written, replaced or removed since the folder was opened."""
        for path in self._stamps:
            self._require_as_it_was(path)

    def _opened(self, path: Path) -> BinaryIO:
        try:
            file = open_regular_file(path)
        except WeightsError:
            # When the folder was opened it could be.
            self._require_as_it_was(path)
            raise
        try:
            _require_same(path, self._stamps.get(path), file_stamp(os.fstat(file.fileno())))
        except InputChangedError:
            file.close()
            raise
        return file

    def _require_as_it_was(self, path: Path) -> None:
        try:
            now = file_stamp(path.stat())
        except OSError:
            now = None
        _require_same(path, self._stamps.get(path), now)


class RowReader:
    """Reads rows of one tensor. With `check`, all rows have to be read in order, and `finish` compares checksums.

    A result is a view of the reader's buffer and is overwritten by the next read.
    """

    def __init__(self, tensor: WholeTensor, files: OpenFiles, *, check: bool = False) -> None:
        self.tensor = tensor
        self._files = files
        self._starts = [piece.first_row for piece in tensor.pieces]
        # Pieces that share their first row are columns of the same rows: all of them, or none, begin at a row.
        self._buffer = bytearray(0)
        self._column_buffer = bytearray(0)
        self._digests = [hashlib.sha256() for _ in tensor.parts] if check else []

    @property
    def rows_per_block(self) -> int:
        """Rows that make a block of at most `BLOCK_BYTES`, at least one."""
        return max(1, BLOCK_BYTES // max(1, self.tensor.row_bytes))

    def read(self, first: int, stop: int) -> NDArray[np.uint8]:
        """Give rows `first` to `stop` as bytes, [rows, bytes of a row]. Raises RunError if a file has shrunk."""
        tensor = self.tensor
        count = (stop - first) * tensor.row_bytes
        if len(self._buffer) < count:
            self._buffer = bytearray(count)
        block = np.frombuffer(self._buffer, np.uint8, count).reshape(stop - first, tensor.row_bytes)
        for piece in self._touching(first, stop):
            self._read_piece(piece, max(first, piece.first_row), min(stop, piece.stop_row), block, first)
        return block

    def finish(self) -> None:
        """Raise WeightsError naming each part, file and tensor, that does not have its recorded checksum."""
        found = [f"sha256:{digest.hexdigest()}" for digest in self._digests]
        if self._digests:
            require_checksums(zip(self.tensor.parts, found, strict=True))

    def _touching(self, first: int, stop: int) -> Iterator[Piece]:
        pieces = self.tensor.pieces
        at = bisect_right(self._starts, first) - 1
        # Several pieces may begin at the row found: go back to the first of them.
        while at > 0 and self._starts[at - 1] == self._starts[at]:
            at -= 1
        while at < len(pieces) and pieces[at].first_row < stop:
            yield pieces[at]
            at += 1

    def _read_piece(self, piece: Piece, first: int, stop: int, block: NDArray[np.uint8], block_first: int) -> None:
        if first >= stop:
            return
        item = self.tensor.item_bytes
        width = (piece.stop_column - piece.first_column) * item
        offset = piece.start + (first - piece.first_row) * width
        target = block[first - block_first : stop - block_first]
        whole_rows = width == self.tensor.row_bytes
        count = (stop - first) * width
        if whole_rows:
            data = target.data.cast("B")
        else:
            if len(self._column_buffer) < count:
                self._column_buffer = bytearray(count)
            data = memoryview(self._column_buffer)[:count]
        read_into(self._files.descriptor(piece.file), offset, data, piece.file)
        if self._digests and piece.part is not None:
            self._digests[piece.part].update(data)
        if not whole_rows:
            columns = slice(piece.first_column * item, piece.stop_column * item)
            target[:, columns] = np.frombuffer(data, np.uint8).reshape(stop - first, width)


def check_parts(parts: tuple[Part, ...], files: OpenFiles) -> None:
    """Read parts, or copies, once through. Raises WeightsError naming each that is not what was recorded."""
    buffer = memoryview(bytearray(min(BLOCK_BYTES, max((part.stop - part.start for part in parts), default=0))))
    found = []
    for part in parts:
        digest = hashlib.sha256()
        for start in range(part.start, part.stop, BLOCK_BYTES):
            piece = buffer[: min(BLOCK_BYTES, part.stop - start)]
            read_into(files.descriptor(part.file), start, piece, part.file)
            digest.update(piece)
        found.append(f"sha256:{digest.hexdigest()}")
    require_checksums(zip(parts, found, strict=True))


def require_checksums(found: Iterable[tuple[Part, str]]) -> None:
    """Raise WeightsError naming file and tensor of every part whose bytes have another checksum than was recorded."""
    problems = [
        Problem(
            where=printable(str(part.file)),
            key=part.key,
            message=f"is damaged: its bytes have the checksum {digest[:19]}..., the manifest says "
            f"{part.checksum[:19]}...",
            fix=COPY_ANEW,
        )
        for part, digest in found
        if digest != part.checksum
    ]
    if problems:
        raise WeightsError(problems)


def tensor_to_write(tensor: WholeTensor, files: OpenFiles) -> TensorToWrite:
    """Give a tensor of which one block at a time is in memory while it is written, for example to an HF folder.

    Its writing raises WeightsError naming each part or copy that is not what was recorded of it. Of files without
    checksums (HF folders) `files.require_unchanged()` tells afterwards whether one was written to meanwhile.
    """
    return TensorToWrite(
        name=tensor.name, dtype=tensor.dtype, shape=tensor.shape, chunks=lambda: _blocks(tensor, files)
    )


def _blocks(tensor: WholeTensor, files: OpenFiles) -> Iterator[memoryview]:
    reader = RowReader(tensor, files, check=True)
    for first in range(0, tensor.rows, reader.rows_per_block):
        yield reader.read(first, min(first + reader.rows_per_block, tensor.rows)).data.cast("B")
    reader.finish()
    check_parts(tensor.copies, files)


def _require_same(path: Path, wanted: Stamp | None, found: Stamp | None) -> None:
    if wanted is not None and wanted != found:
        what = "is gone" if found is None else "was written or replaced"
        where = printable(str(path))
        raise InputChangedError(f"{where}: {what} while it was read; wait until nothing writes to it, and start again")
