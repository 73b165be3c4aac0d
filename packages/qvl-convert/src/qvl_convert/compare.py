"""Compare two weights folders bit for bit, whatever their layouts and spellings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qvl_core.specs.load import spec_differences
from qvl_core.weights.tensor_io import raw_to_float32

from qvl_convert.whole_tensors import WholeTensor, WholeTensors, blocks


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What came out: `difference` describes the first one, None if all bits are equal.

    `notes` say how the models differ apart from their tensors (rotary base, token ids ...).
    """

    tensors: int
    bytes_compared: int
    difference: str | None
    notes: tuple[str, ...]


def compare_folders(left: WholeTensors, right: WholeTensors, advance: Callable[[int], None]) -> Comparison:
    """Compare tensor by tensor up to the first difference; `advance` is told the bytes done. Raises WeightsError."""
    notes = spec_differences(left.spec, right.spec)
    compared = 0
    for name in [*left.tensors, *(name for name in right.tensors if name not in left.tensors)]:
        difference = _compare(name, left.tensors.get(name), right.tensors.get(name), advance)
        if difference is not None:
            return Comparison(
                tensors=len(left.tensors), bytes_compared=compared, difference=f"{name}: {difference}", notes=notes
            )
        compared += left.tensors[name].size
    return Comparison(tensors=len(left.tensors), bytes_compared=compared, difference=None, notes=notes)


def _compare(
    name: str, left: WholeTensor | None, right: WholeTensor | None, advance: Callable[[int], None]
) -> str | None:
    if left is None or right is None:
        return f"is only in {'B' if left is None else 'A'}"
    if left.parameter.shape != right.parameter.shape:
        return f"has shape {list(left.parameter.shape)} in A, {list(right.parameter.shape)} in B"
    if left.dtype != right.dtype:
        return f"is {left.dtype} in A, {right.dtype} in B"
    difference, row = None, 0
    for one, other in zip(blocks(left), blocks(right), strict=True):
        # After a difference the rest is still read: a damaged part is found by its checksum at the end, and that is
        # the better thing to say.
        if difference is None and not np.array_equal(one, other):
            difference = _describe(one, other, row, left)
        row += len(one)
        advance(one.nbytes)
    return difference


def _describe(one: NDArray[Any], other: NDArray[Any], first_row: int, tensor: WholeTensor) -> str:
    at = int(np.flatnonzero(one.reshape(-1) != other.reshape(-1))[0])
    place = np.unravel_index(first_row * one.shape[1] + at, tensor.parameter.shape)
    values = " in A, ".join(_shown(block.reshape(-1)[at], tensor.dtype) for block in (one, other))
    return f"differs first at {[int(index) for index in place]}: {values} in B"


def _shown(bits: np.unsignedinteger[Any], dtype: str) -> str:
    """Give the value and its bits: two different bit patterns may print alike."""
    raw = np.array([bits]) if dtype == "BF16" else np.array([bits]).view({"F16": np.float16, "F32": np.float32}[dtype])
    return f"{raw_to_float32(raw, dtype)[0]!s} (0x{int(bits):0{2 * bits.itemsize}x})"
