"""One rank's part of every tensor, read from a weights folder of any kind and layout: how a model is loaded.

Nothing is read that the rank does not need, but where checksums are recorded: there a part of the folder is read whole
or not at all, and compared. Memory beyond the result is one block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvl_core.layout import Layout
from qvl_core.lora_table import weight_table
from qvl_core.params import Parameter
from qvl_core.weights.cuts import Cut, cut_of
from qvl_core.weights.optimizer_state import split_name
from qvl_core.weights.raw_bytes import read_into
from qvl_core.weights.row_reader import BLOCK_BYTES, OpenFiles, check_parts, require_checksums
from qvl_core.weights.tensor_io import raw_to_float32, view_as
from qvl_core.weights.whole_tensors import Piece, WholeTensor, WholeTensors


@dataclass(frozen=True, kw_only=True)
class LocalTensor:
    """A rank's part of a tensor: raw bits in the part's shape; bfloat16 comes as uint16."""

    name: str
    dtype: str
    array: NDArray[Any]


def local_tensors(source: WholeTensors, layout: Layout, pp: int, tp: int) -> Iterator[LocalTensor]:
    """Yield what the rank at pipeline stage `pp` and tensor rank `tp` of `layout` holds, in table order.

    The layout has passed `check_layout`. Raises WeightsError naming file and tensor where the bytes are not what was
    recorded of them, in a copy as well; RunError if a file changes meanwhile, which is known at the end only.
    """
    rows = {parameter.name: parameter for parameter in weight_table(source.spec, source.lora, layout)}
    yield from _local_tensors(source, source.tensors, rows, layout.tp, pp, tp)


def local_optimizer_tensors(source: WholeTensors, layout: Layout, pp: int, tp: int) -> Iterator[LocalTensor]:
    """Yield the rank's optimizer state by `<parameter>.<kind>`, under the same rules; nothing where there is none."""
    table = {parameter.name: parameter for parameter in weight_table(source.spec, source.lora, layout)}
    rows = {name: table[split_name(name)[0]] for name in source.optimizer}
    yield from _local_tensors(source, source.optimizer, rows, layout.tp, pp, tp)


def local_values(source: WholeTensors, layout: Layout, pp: int, tp: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield (name, fp32 array) of the rank's weights: exact, for every bfloat16 and float16 is a float32."""
    for tensor in local_tensors(source, layout, pp, tp):
        yield tensor.name, raw_to_float32(tensor.array, tensor.dtype)


def _local_tensors(
    source: WholeTensors,
    tensors: Mapping[str, WholeTensor],
    rows: Mapping[str, Parameter],
    degree: int,
    pp: int,
    rank: int,
) -> Iterator[LocalTensor]:
    with OpenFiles(source.inputs) as files:
        for name, parameter in rows.items():
            if pp not in parameter.stages:
                continue
            tensor = tensors[name]
            cut = cut_of(tensor.shape, parameter.shard, tp=degree, rank=rank)
            array = view_as(_read_part(tensor, cut, files), tensor.dtype, parameter.local_shape(degree))
            yield LocalTensor(name=name, dtype=tensor.dtype, array=array)
        files.require_unchanged()


def _read_part(tensor: WholeTensor, cut: Cut, files: OpenFiles) -> NDArray[np.uint8]:
    """Give the bytes of a part, [rows, bytes of a row], from the pieces of the whole that it shares elements with."""
    box = np.empty((cut.rows, cut.columns * tensor.item_bytes), np.uint8)
    shared = [tuple(_shared_rows(piece, cut)) for piece in tensor.pieces]
    needed = {piece.part for piece, spans in zip(tensor.pieces, shared, strict=True) if spans}
    digests = {part: hashlib.sha256() for part in needed if part is not None}
    # In the order of the pieces, the bytes of each recorded part come in the order in which they lie in its file.
    for piece, spans in zip(tensor.pieces, shared, strict=True):
        digest = digests.get(piece.part) if piece.part is not None else None
        whole = ((piece.first_row, piece.stop_row),)
        for row, block in _blocks(piece, spans if digest is None else whole, tensor.item_bytes, files):
            if digest is not None:
                digest.update(block.data)
            _place(block, row, piece, cut, box)
    require_checksums((tensor.parts[part], f"sha256:{digest.hexdigest()}") for part, digest in digests.items())
    # Copies lie in files that nobody else may read: damage in one is told now, not when another layout needs it.
    check_parts(tuple(copy for i, copy in enumerate(tensor.copies) if i % len(tensor.parts) in digests), files)
    return box


def _shared_rows(piece: Piece, cut: Cut) -> Iterator[tuple[int, int]]:
    """Give the spans of the whole's rows that lie both in a piece and in a part; none if they share no column."""
    if max(piece.first_column, cut.first_column) >= min(piece.stop_column, cut.stop_column):
        return
    for run in cut.runs:
        first, stop = max(piece.first_row, run.first), min(piece.stop_row, run.stop)
        if first < stop:
            yield first, stop


def _blocks(
    piece: Piece, spans: tuple[tuple[int, int], ...], item: int, files: OpenFiles
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield (first row, bytes [rows, bytes of a row]) of spans of a piece's rows; the next block overwrites them."""
    width = (piece.stop_column - piece.first_column) * item
    rows = max(1, BLOCK_BYTES // width)
    buffer = np.empty((min(rows, piece.stop_row - piece.first_row), width), np.uint8)
    for first, stop in spans:
        for row in range(first, stop, rows):
            block = buffer[: min(rows, stop - row)]
            start = piece.start + (row - piece.first_row) * width
            read_into(files.descriptor(piece.file), start, block.data.cast("B"), piece.file)
            yield row, block


def _place(block: NDArray[np.uint8], row: int, piece: Piece, cut: Cut, box: NDArray[np.uint8]) -> None:
    """Copy what a block, a piece's rows from `row` on, shares with a part to its place in that part's bytes."""
    item = block.shape[1] // (piece.stop_column - piece.first_column)
    left, right = max(piece.first_column, cut.first_column), min(piece.stop_column, cut.stop_column)
    here = slice((left - piece.first_column) * item, (right - piece.first_column) * item)
    there = slice((left - cut.first_column) * item, (right - cut.first_column) * item)
    for run in cut.runs:
        first, stop = max(row, run.first), min(row + len(block), run.stop)
        if first < stop and left < right:
            local = run.local + first - run.first
            box[local : local + stop - first, there] = block[first - row : stop - row, here]
