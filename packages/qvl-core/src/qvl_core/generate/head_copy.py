"""The output head in the layout that few rows are multiplied by fast on CPU, for as long as the weight is the same.

Legend: V vocabulary, D model width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mindspore import Parameter, Tensor
from numpy.typing import NDArray


class HeadCopy:
    """A copy [D, V] of a weight [V, D], and what tells whether the weight is still that one."""

    def __init__(self, weight_VD: Parameter) -> None:
        held_VD = weight_VD.asnumpy()
        self.weight_DV = Tensor.from_numpy(np.ascontiguousarray(held_VD.T))
        self._sums = _sums(held_VD)

    def is_of(self, weight_VD: Parameter) -> bool:
        """Tell whether the weight has the values that were copied; reads it once, at the speed of the memory.

        An update in place leaves no trace on a parameter, so the values themselves have to say.
        """
        sums = _sums(weight_VD.asnumpy())
        return all(np.array_equal(own, now) for own, now in zip(self._sums, sums, strict=True))


def _sums(held_VD: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Give the sums of the bit patterns of every row and of every column, modulo what a pattern holds."""
    bits_VD = held_VD.view(f"u{held_VD.itemsize}")
    return bits_VD.sum(axis=1, dtype=bits_VD.dtype), bits_VD.sum(axis=0, dtype=bits_VD.dtype)
