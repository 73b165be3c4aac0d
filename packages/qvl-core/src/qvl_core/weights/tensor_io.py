"""Tensors as numpy arrays: reading from safetensors, converting between float kinds, and handing over for writing.

The only module of `weights` that needs numpy. numpy has no bfloat16: raw bfloat16 is uint16, its value the upper half
of a float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvl_core.errors import Problem, WeightsError
from qvl_core.input_file import open_regular_file, printable
from qvl_core.weights.raw_bytes import PIECE_BYTES, read_exactly
from qvl_core.weights.safetensors_header import DTYPE_BYTES, TensorEntry
from qvl_core.weights.safetensors_writer import TensorToWrite

_NUMPY: dict[str, type[np.generic]] = {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "F8_E5M2": np.uint8, "F8_E4M3": np.uint8,
    "I16": np.int16, "U16": np.uint16, "F16": np.float16, "BF16": np.uint16,
    "I32": np.int32, "U32": np.uint32, "F32": np.float32,
    "I64": np.int64, "U64": np.uint64, "F64": np.float64,
}  # fmt: skip
_SAFETENSORS = {np.dtype(kind): name for name, kind in _NUMPY.items() if name not in ("BF16", "F8_E5M2", "F8_E4M3")}
# The exponent of a float16, bfloat16 or float32, all ones: infinity or not a number.
_EXPONENT = {"F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F800000}


def read_raw(entry: TensorEntry) -> NDArray[Any]:
    """Give a writable array of the tensor's bits; bfloat16 comes as uint16. Raises RunError if the file shrank."""
    array = np.empty(entry.size, np.uint8)
    with open_regular_file(entry.file) as file:
        # Into one array piece by piece: a 2.5 GB embedding needs 2.5 GB and one piece, not twice its size.
        for start in range(0, entry.size, PIECE_BYTES):
            count = min(PIECE_BYTES, entry.size - start)
            piece = read_exactly(file.fileno(), entry.start + start, count, entry.file)
            array[start : start + count] = np.frombuffer(piece, np.uint8)
    return view_as(array, entry.dtype, entry.shape)


def view_as(data: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Give the array of raw bits that these bytes are, without a copy; bfloat16 comes as uint16."""
    return data.reshape(-1).view(_NUMPY[dtype]).reshape(shape)


def read_tensor(entry: TensorEntry) -> NDArray[np.float32]:
    """Give the tensor as float32, exactly: every bfloat16 and float16 is one. Raises WeightsError for other kinds."""
    if entry.dtype not in _EXPONENT:
        message = f"is {entry.dtype}; weights are BF16, F16 or F32"
        raise WeightsError(Problem(where=printable(str(entry.file)), key=entry.name, message=message))
    return raw_to_float32(read_raw(entry), entry.dtype)


def raw_to_float32(raw: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Give the values of an array of raw bits of this dtype (BF16 as uint16, F16, F32)."""
    if dtype == "BF16":
        bits = np.left_shift(raw, 16, dtype=np.uint32)
        return np.asarray(bits).reshape(-1).view(np.float32).reshape(raw.shape)
    return raw.astype(np.float32, copy=False)


def float32_to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Give the nearest bfloat16, ties to even, as uint16; a NaN stays a NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    # Rounding may carry a NaN's bits into the sign: take its upper half with the quiet bit set.
    return np.where(np.isnan(values), ((bits >> 16) | 0x40).astype(np.uint16), rounded)


def tensor_from_array(name: str, array: NDArray[Any], dtype: str | None = None) -> TensorToWrite:
    """Give a tensor whose bytes come from an array.

    `dtype` BF16 with a uint16 array means raw bits, with a float32 array rounding to nearest; F16 and F32 convert.
    Without it the array's own dtype is kept. Conversion happens when the bytes are written, not before.
    """
    dtype = dtype or _SAFETENSORS[array.dtype]
    return TensorToWrite(name=name, dtype=dtype, shape=tuple(array.shape), chunks=lambda: _chunks(array, dtype))


def count_non_finite(entry: TensorEntry) -> int:
    """Count the elements that are infinite or not a number, in bounded memory; 0 for whole numbers."""
    mask = _EXPONENT.get(entry.dtype)
    if mask is None:
        return 0
    width = DTYPE_BYTES[entry.dtype]
    unsigned = {2: np.uint16, 4: np.uint32}[width]
    total = 0
    with open_regular_file(entry.file) as file:
        for start in range(entry.start, entry.stop, PIECE_BYTES):
            piece = read_exactly(file.fileno(), start, min(PIECE_BYTES, entry.stop - start), entry.file)
            bits = np.frombuffer(piece, unsigned)
            total += int(np.count_nonzero((bits & unsigned(mask)) == mask))
    return total


def _chunks(array: NDArray[Any], dtype: str) -> Iterator[bytes | memoryview]:
    target = np.dtype(_NUMPY[dtype])
    flat = np.ascontiguousarray(array).reshape(-1)
    step = max(1, PIECE_BYTES // target.itemsize)
    for start in range(0, flat.size, step):
        part = flat[start : start + step]
        if dtype == "BF16" and part.dtype != np.uint16:
            part = float32_to_bfloat16(part.astype(np.float32, copy=False))
        elif dtype in _EXPONENT and part.dtype != target:
            part = part.astype(target)
        assert part.dtype == target, f"{part.dtype} cannot be written as {dtype}"
        yield part.view(np.uint8).data
