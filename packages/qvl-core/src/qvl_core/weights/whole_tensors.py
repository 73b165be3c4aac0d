"""One view of any weights folder: every tensor whole, as a tiling of boxes of bytes, whatever the folder's layout.

A tensor is a matrix: dim 0 are its rows, the rest its columns. `RowReader` gives any rows of it, put together from the
files that hold them, in memory for one block. Both the converter and the loading of a model read through this module.
"""

from __future__ import annotations

import hashlib
import os
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from qvl_core.errors import InputChangedError, Problem, WeightsError
from qvl_core.input_file import open_regular_file, printable
from qvl_core.layout import Layout
from qvl_core.params import Parameter, parameter_table
from qvl_core.specs.load import CONFIG_NAME
from qvl_core.specs.model_spec import ModelSpec
from qvl_core.weights.cuts import cut_of, matrix_shape
from qvl_core.weights.hf_folder import HFFolder, require_tensors
from qvl_core.weights.manifest import MANIFEST_NAME, TensorRecord, rank_file_name
from qvl_core.weights.optimizer_state import optimizer_file_name, split_name
from qvl_core.weights.raw_bytes import read_into
from qvl_core.weights.safetensors_header import DTYPE_BYTES, TensorEntry, file_stamp
from qvl_core.weights.sharded_folder import ShardedFolder
from qvl_core.weights.source import STATE_NAME, open_source

# Small enough for a core's cache: with 4 MiB the kernel's copies take three times the processor time.
BLOCK_BYTES = 1024**2

Kind = Literal["hf", "sharded", "checkpoint", "mindspeed"]
Stamp = tuple[int, int, int]
_ANEW = "copy the folder again from where it was written, or take another checkpoint"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A box of a whole tensor that lies in a file without gaps, from byte `start` on. Columns count elements.

    `part` is the index of the `Part` that it belongs to, None where no checksum is recorded.
    """

    file: Path
    start: int
    first_row: int
    stop_row: int
    first_column: int
    stop_column: int
    part: int | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """Bytes `start` to `stop` of a file, known there as `key`, and what was recorded of them, `sha256:...`."""

    file: Path
    key: str
    start: int
    stop: int
    checksum: str


@dataclass(frozen=True, kw_only=True)
class WholeTensor:
    """A tensor and the boxes that tile it, in order of their rows; read in that order, each part's bytes are in order.

    `parts` have recorded checksums. `copies` hold once more what a part holds: the other ranks of a replicated tensor,
    the second stage of a tied embedding.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    pieces: tuple[Piece, ...]
    parts: tuple[Part, ...] = ()
    copies: tuple[Part, ...] = ()

    @property
    def rows(self) -> int:
        """Rows, counted along dim 0."""
        return matrix_shape(self.shape)[0]

    @property
    def item_bytes(self) -> int:
        """Bytes of an element."""
        return DTYPE_BYTES[self.dtype]

    @property
    def row_bytes(self) -> int:
        """Bytes of a whole row."""
        return matrix_shape(self.shape)[1] * self.item_bytes

    @property
    def size(self) -> int:
        """Bytes of the whole tensor."""
        return self.rows * self.row_bytes


@dataclass(frozen=True, kw_only=True)
class Input:
    """A file that the tensors lie in, as it was when the folder was opened."""

    path: Path
    stamp: Stamp


@dataclass(frozen=True, kw_only=True)
class WholeTensors:
    """All tensors of a folder by classic name, in table order; `optimizer` by `<parameter>.<kind>`.

    `layout` is None for an HF folder. `source_revision` is what a manifest says of where the weights came from.
    `has_optimizer` is true of a checkpoint with optimizer files, which hold nothing if every parameter is frozen.
    """

    path: Path
    kind: Kind
    spec: ModelSpec
    layout: Layout | None
    source_revision: str
    tensors: Mapping[str, WholeTensor]
    optimizer: Mapping[str, WholeTensor] = field(default_factory=dict)
    has_optimizer: bool = False
    inputs: tuple[Input, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all tensors, without optimizer state."""
        return sum(tensor.size for tensor in self.tensors.values())


def open_whole_tensors(path: str | Path) -> WholeTensors:
    """Open an HF, sharded or checkpoint folder. Headers are checked, and that copies of one tensor are recorded equal.

    Raises WeightsError.
    """
    folder = open_source(path)
    return whole_tensors_of(folder)


def whole_tensors_of(folder: HFFolder | ShardedFolder) -> WholeTensors:
    """Give the view of an opened folder. Raises WeightsError if it does not hold exactly its model's tensors."""
    return _of_hf(folder) if isinstance(folder, HFFolder) else _of_sharded(folder)


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
            fix=_ANEW,
        )
        for part, digest in found
        if digest != part.checksum
    ]
    if problems:
        raise WeightsError(problems)


def _of_hf(folder: HFFolder) -> WholeTensors:
    require_tensors(folder, folder.spec)
    tensors = {}
    for parameter in parameter_table(folder.spec):
        entry = folder.tensors[parameter.name]
        tensors[parameter.name] = WholeTensor(
            name=parameter.name,
            shape=parameter.shape,
            dtype=entry.dtype,
            pieces=(whole_piece(entry.file, entry.start, parameter.shape),),
        )
    inputs = (*(Input(path=header.file, stamp=header.stamp) for header in folder.headers),)
    return WholeTensors(
        path=folder.path,
        kind="hf",
        spec=folder.spec,
        layout=None,
        source_revision="",
        tensors=tensors,
        inputs=(*inputs, input_of(folder.path / CONFIG_NAME)),
    )


def whole_piece(file: Path, start: int, shape: tuple[int, ...]) -> Piece:
    """Give the piece of a tensor that lies in one file as it is."""
    rows, columns = matrix_shape(shape)
    return Piece(file=file, start=start, first_row=0, stop_row=rows, first_column=0, stop_column=columns)


def input_of(path: Path) -> Input:
    """Give a file as it is now. Raises WeightsError if it cannot be looked at."""
    try:
        return Input(path=path, stamp=file_stamp(path.stat()))
    except OSError as error:
        raise WeightsError(Problem(where=printable(str(path)), message=f"cannot be read: {error.strerror}")) from None


def _of_sharded(folder: ShardedFolder) -> WholeTensors:
    manifest = folder.manifest
    table = {parameter.name: parameter for parameter in parameter_table(manifest.spec, manifest.layout)}
    tensors = {
        name: _sharded_tensor(folder, parameter, name, manifest.tensors[name], folder.ranks, rank_file_name)
        for name, parameter in table.items()
    }
    optimizer = {
        name: _sharded_tensor(folder, table[split_name(name)[0]], name, record, folder.optimizer, optimizer_file_name)
        for name, record in manifest.optimizer.items()
    }
    state = folder.path / STATE_NAME
    names = [*manifest.files, MANIFEST_NAME]
    return WholeTensors(
        path=folder.path,
        kind="checkpoint" if state.exists() else "sharded",
        spec=manifest.spec,
        layout=manifest.layout,
        source_revision=manifest.source_revision,
        tensors=tensors,
        optimizer=optimizer,
        has_optimizer=manifest.has_optimizer,
        inputs=tuple(input_of(folder.path / name) for name in names),
    )


def _sharded_tensor(
    folder: ShardedFolder,
    parameter: Parameter,
    name: str,
    record: TensorRecord,
    ranks: Mapping[tuple[int, int], Mapping[str, TensorEntry]],
    file_name: Any,
) -> WholeTensor:
    tp = folder.manifest.layout.tp
    homes = [(pp, rank) for pp in parameter.stages for rank in range(tp)]
    found = [_part(ranks[home][name], record.parts[file_name(*home)]) for home in homes]
    count = 1 if parameter.shard == "replicate" else tp
    parts, copies = tuple(found[:count]), tuple(found[count:])
    for i, copy in enumerate(copies):
        _require_equal_copy(parts[i % count], copy)
    return WholeTensor(
        name=name,
        shape=parameter.shape,
        dtype=record.dtype,
        pieces=_pieces(parameter, parts, DTYPE_BYTES[record.dtype]),
        parts=parts,
        copies=copies,
    )


def _part(entry: TensorEntry, checksum: str) -> Part:
    return Part(file=entry.file, key=entry.name, start=entry.start, stop=entry.stop, checksum=checksum)


def _pieces(parameter: Parameter, parts: tuple[Part, ...], item: int) -> tuple[Piece, ...]:
    pieces = []
    for rank, part in enumerate(parts):
        cut = cut_of(parameter.shape, parameter.shard, tp=len(parts), rank=rank)
        for run in cut.runs:
            pieces.append(
                Piece(
                    file=part.file,
                    start=part.start + run.local * cut.columns * item,
                    first_row=run.first,
                    stop_row=run.stop,
                    first_column=cut.first_column,
                    stop_column=cut.stop_column,
                    part=rank,
                )
            )
    return tuple(sorted(pieces, key=lambda piece: (piece.first_row, piece.first_column)))


def _require_equal_copy(part: Part, copy: Part) -> None:
    if part.checksum != copy.checksum:
        message = f"differs from the copy in {part.file.name}, by their recorded checksums"
        raise WeightsError(Problem(where=printable(str(copy.file)), key=copy.key, message=message, fix=_ANEW))


def _require_same(path: Path, wanted: Stamp | None, found: Stamp | None) -> None:
    if wanted is not None and wanted != found:
        what = "is gone" if found is None else "was written or replaced"
        where = printable(str(path))
        raise InputChangedError(f"{where}: {what} while it was read; wait until nothing writes to it, and start again")
