"""Many small tensors as one: joined into a flat tensor for one operation, and dealt out again; and their norm.

An operation costs about 0.06 ms on CPU however small its tensors are, and a launch on a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, mint, ops
from numpy.typing import NDArray

# Squares that are added in fp32 before they go on in fp64: an error below 1e-7 of the sum, at the speed of fp32. So
# short that no BLAS gives a part of them to another thread: the bits do not depend on the number of cores.
_FP32_RUN = 1024


def join_reference(tensors: Sequence[Tensor]) -> Tensor:
    """Return the elements of all tensors of one dtype, flat and in order; a tensor of its own. Never differentiated."""
    # On CPU asnumpy is a view; one copy here is half the time of one operation for each tensor.
    return Tensor.from_numpy(np.concatenate([tensor.asnumpy().reshape(-1) for tensor in tensors]))


def join_ascend(tensors: Sequence[Tensor]) -> Tensor:
    """Return the same without a way over the host. Not verified on a device."""
    return ops.cat([tensor.reshape(-1) for tensor in tensors])


def deal_reference(flat: Tensor, parameters: Sequence[Parameter]) -> None:
    """Set the parameters to the elements of `flat`, in order, rounded to their dtypes. `flat` may be longer.

    In place: compiled code that has run once does not see what `set_data` gives a parameter, nor any later change.
    """
    values = flat.asnumpy().reshape(-1)
    for parameter, first, stop in _places(parameters):
        # Through numpy: to take a slice of a tensor from it is not safe in place on CPU.
        part = Tensor.from_numpy(values[first:stop].reshape(parameter.shape))
        value = part if parameter.dtype == part.dtype else part.astype(parameter.dtype)
        if parameter.dtype == ms.bfloat16:
            # assign has no bfloat16 kernel on CPU, and no compiled code there has bfloat16 gradients.
            parameter.set_data(value)  # trap: not compiled
        else:
            ops.assign(parameter, value)


def deal_ascend(flat: Tensor, parameters: Sequence[Parameter]) -> None:
    """Do the same without a way over the host. Not verified on a device."""
    for parameter, first, stop in _places(parameters):
        whole = flat.shape == parameter.shape
        part = flat if whole else flat.reshape(-1)[first:stop].reshape(parameter.shape)
        if parameter.dtype != flat.dtype:
            ops.assign(parameter, part.astype(parameter.dtype))
        else:
            ops.assign(parameter, part if whole else part.copy())


def sum_of_squares_reference(tensors: Sequence[Tensor]) -> float:
    """Return the sum of squares of all elements of fp32 tensors, within 1e-6 of the exact one.

    NaN where an element is NaN; infinity where one is, or where the sum of 1024 squares is above fp32 (some 1e38). The
    same elements in the same tensors give the same bits. It reads the host's memory, which on CPU is where tensors lie.
    """
    return sum(_squares_of(tensor.asnumpy()) for tensor in tensors)


def sum_of_squares_ascend(tensors: Sequence[Tensor]) -> float:
    """Return the same, added on the device in fp32 within each tensor; the host waits once, for all of them together.

    Not verified on a device; its order of addition is the device's.
    """
    if not tensors:
        return 0.0
    squares = ops.stack([mint.sum(tensor * tensor) for tensor in tensors]).asnumpy()
    return float(squares.sum(dtype=np.float64))


def _places(parameters: Sequence[Parameter]) -> list[tuple[Parameter, int, int]]:
    """Pair each parameter with where its elements begin and end."""
    ends = np.cumsum([0, *(int(np.prod(parameter.shape)) for parameter in parameters)]).tolist()
    return [(parameter, first, stop) for parameter, (first, stop) in zip(parameters, pairwise(ends), strict=True)]


def _squares_of(array: NDArray[np.float32]) -> float:
    values = array.reshape(-1)
    whole = values.size - values.size % _FP32_RUN
    runs, rest = values[:whole].reshape(-1, _FP32_RUN), values[whole:]
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.matmul(runs[:, None, :], runs[:, :, None]).sum(dtype=np.float64) if whole else 0.0
        return float(total) + float(np.dot(rest, rest))
