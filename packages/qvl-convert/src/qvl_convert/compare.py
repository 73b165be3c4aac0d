"""Compare two weights folders bit for bit, whatever their layouts and spellings, with a few threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qvl_core.specs.load import spec_differences
from qvl_core.weights.cuts import matrix_shape
from qvl_core.weights.row_reader import OpenFiles, RowReader, check_parts
from qvl_core.weights.source import STATE_NAME
from qvl_core.weights.tensor_io import raw_to_float32
from qvl_core.weights.whole_tensors import WholeTensor, WholeTensors

from qvl_convert.plan_sharded import carried_files


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first difference of two folders. `place` is an index into the whole tensor, None if its kind differs."""

    tensor: str
    message: str
    place: tuple[int, ...] | None = None
    left: str = ""
    right: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What came out: `difference` is the first one in the order of the tensors, None if all bits are equal.

    `notes` say how the models differ apart from their tensors (rotary base, token ids ...), and what one folder has
    that was not compared.
    """

    tensors: int
    bytes_compared: int
    difference: Difference | None
    notes: tuple[str, ...]


def compare_folders(left: WholeTensors, right: WholeTensors, advance: Callable[[int], None]) -> Comparison:
    """Compare all tensors, and the optimizer state where both have it; `advance` is told the bytes done.

    Every copy of a tensor is compared with its recorded checksum as well. Raises WeightsError if a folder is damaged,
    RunError if one changes meanwhile.
    """
    notes = [f"the configs differ in {line}" for line in spec_differences(left.spec, right.spec)]
    if left.lora and right.lora and left.lora != right.lora:
        notes.append(f"the adapters' settings differ: {left.lora} in A, {right.lora} in B")
    pairs = list(_pairs(left.tensors, right.tensors))
    if left.optimizer and right.optimizer:
        pairs += _pairs(left.optimizer, right.optimizer)
    elif left.optimizer or right.optimizer:
        side = "A" if left.optimizer else "B"
        notes.append(f"only {side} has optimizer state: its checksums hold, the weights were compared")
    with OpenFiles(left.inputs) as left_files, OpenFiles(right.inputs) as right_files:
        try:
            compared, difference = _run(pairs, left_files, right_files, advance)
            if not right.optimizer:
                _check_optimizer(left, left_files)
            if not left.optimizer:
                _check_optimizer(right, right_files)
            notes += _state_notes(left, right)
        finally:
            # After an error too: a file that is being written to looks like a damaged one.
            left_files.require_unchanged()
            right_files.require_unchanged()
    sizes = [one.size for _, one, _ in pairs[:compared] if one is not None]
    return Comparison(tensors=compared, bytes_compared=sum(sizes), difference=difference, notes=tuple(notes))


def _check_optimizer(one: WholeTensors, files: OpenFiles) -> None:
    """Compare optimizer state that the other folder has not with what was recorded of it. Raises WeightsError."""
    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="check") as pool:
        for _ in pool.map(lambda tensor: check_parts((*tensor.parts, *tensor.copies), files), one.optimizer.values()):
            pass


def _state_notes(left: WholeTensors, right: WholeTensors) -> list[str]:
    """Compare `state.json` of checkpoints with its recorded checksum, and with the other's. Raises WeightsError."""
    states = [carried_files(one)[STATE_NAME].checksum for one in (left, right) if one.kind == "checkpoint"]
    return [f"{STATE_NAME} differs; only tensors are compared"] if len(set(states)) > 1 else []


_Pair = tuple[str, WholeTensor | None, WholeTensor | None]


def _pairs(left: Mapping[str, WholeTensor], right: Mapping[str, WholeTensor]) -> Iterator[_Pair]:
    for name in [*left, *(name for name in right if name not in left)]:
        yield name, left.get(name), right.get(name)


def _run(
    pairs: list[_Pair], left_files: OpenFiles, right_files: OpenFiles, advance: Callable[[int], None]
) -> tuple[int, Difference | None]:
    """Give how many tensors were found equal before the first difference, and that difference."""
    stop = threading.Event()
    with ThreadPoolExecutor((os.cpu_count() or 1) + 1, thread_name_prefix="compare") as pool:
        futures = [pool.submit(_compare, pair, left_files, right_files, advance, stop) for pair in pairs]
        try:
            # Results are taken in the order of the tensors: the first difference is the same in every run.
            for count, future in enumerate(futures):
                if (difference := future.result()) is not None:
                    return count, difference
            return len(pairs), None
        finally:
            stop.set()
            for future in futures:
                future.cancel()


def _compare(
    pair: _Pair,
    left_files: OpenFiles,
    right_files: OpenFiles,
    advance: Callable[[int], None],
    stop: threading.Event,
) -> Difference | None:
    name, left, right = pair
    if left is None or right is None:
        return Difference(tensor=name, message=f"is only in {'B' if left is None else 'A'}")
    if left.shape != right.shape:
        return Difference(tensor=name, message=f"has shape {list(left.shape)} in A, {list(right.shape)} in B")
    if left.dtype != right.dtype:
        return Difference(tensor=name, message=f"is {left.dtype} in A, {right.dtype} in B")
    one, other = RowReader(left, left_files, check=True), RowReader(right, right_files, check=True)
    difference, step = None, one.rows_per_block
    for first in range(0, left.rows, step):
        if stop.is_set():
            return None
        rows = first, min(first + step, left.rows)
        block, other_block = one.read(*rows), other.read(*rows)
        # After a difference the rest is still read: a damaged part is found by its checksum at the end, and that is
        # the better thing to say.
        if difference is None and not np.array_equal(_wide(block), _wide(other_block)):
            difference = _describe(block, other_block, first, left)
        advance(block.nbytes)
    for reader, files in ((one, left_files), (other, right_files)):
        reader.finish()
        check_parts(reader.tensor.copies, files)
    return difference


def _wide(block: NDArray[np.uint8]) -> NDArray[Any]:
    """View bytes as the widest numbers that fit: fewer, so compared faster."""
    return block.view(np.uint64) if block.shape[1] % 8 == 0 else block


def _describe(block: NDArray[np.uint8], other: NDArray[np.uint8], first_row: int, tensor: WholeTensor) -> Difference:
    columns = matrix_shape(tensor.shape)[1]
    at = int(np.flatnonzero(block.reshape(-1) != other.reshape(-1))[0]) // tensor.item_bytes
    place = tuple(int(index) for index in np.unravel_index(first_row * columns + at, tensor.shape))
    left, right = (_shown(found.reshape(-1, tensor.item_bytes)[at], tensor.dtype) for found in (block, other))
    message = f"differs first at {list(place)}: {left} in A, {right} in B"
    return Difference(tensor=tensor.name, message=message, place=place, left=left, right=right)


def _shown(element: NDArray[np.uint8], dtype: str) -> str:
    """Give the value and its bits: two different bit patterns may print alike."""
    bits = int.from_bytes(element.tobytes(), "little")
    raw = element.view({"BF16": np.uint16, "F16": np.float16, "F32": np.float32}[dtype])
    return f"{raw_to_float32(raw, dtype)[0]!s} (0x{bits:0{2 * element.nbytes}x})"
