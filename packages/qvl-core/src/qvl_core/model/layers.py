"""The cells that everything else is made of: three with weights, and a list of layers. No rank or collective here.

A tensor-parallel stage swaps `Linear` and `Embedding` for cells of the same call with a cut weight; no other code in
this package reads a head count or a width that a cut would change.

Legend: T tokens, D width in, O width out, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn
from numpy.typing import NDArray

from qvl_core import kernels

DTYPES = {"float32": ms.float32, "float16": ms.float16, "bfloat16": ms.bfloat16}


def empty_parameter(shape: tuple[int, ...], dtype: str) -> Parameter:
    """Make a parameter of zeros to be filled by `Qwen25VL.from_spec`.

    The zeros share numpy's untouched pages: a large model does not exist twice while its weights are read, and a
    parameter that a tensor-parallel stage replaces by its part has cost nothing.
    """
    if dtype == "bfloat16":
        return Parameter(Tensor.from_numpy(np.zeros(shape, np.uint16).view(_bfloat16())))
    return Parameter(Tensor.from_numpy(np.zeros(shape, dtype)))


def tensor_of(array: NDArray[Any], dtype: str) -> Tensor:
    """Move an array of a model's dtype to the device; bfloat16 ones are its bit patterns in uint16."""
    if dtype == "bfloat16":
        return Tensor.from_numpy(array.view(_bfloat16()))
    return Tensor(array)


def _bfloat16() -> np.dtype[Any]:
    """Give MindSpore's own numpy dtype of that name; numpy has none."""
    return cast("np.dtype[Any]", Tensor(np.zeros(1, np.float32)).astype(ms.bfloat16).asnumpy().dtype)


class Linear(nn.Cell):
    """x_..D -> x_..O."""

    def __init__(self, width_in: int, width_out: int, *, bias: bool, dtype: str) -> None:
        super().__init__()
        self.weight = empty_parameter((width_out, width_in), dtype)
        self.bias = empty_parameter((width_out,), dtype) if bias else None

    def construct(self, x_TD: Tensor) -> Tensor:
        return kernels.linear(x_TD, self.weight, self.bias)


class RMSNorm(nn.Cell):
    """Root-mean-square norm over the last dim, computed in fp32 by the kernel."""

    def __init__(self, width: int, eps: float, dtype: str) -> None:
        super().__init__()
        self.weight = empty_parameter((width,), dtype)
        self.eps = eps

    def construct(self, x_TD: Tensor) -> Tensor:
        return kernels.rms_norm(x_TD, self.weight, self.eps)


class Embedding(nn.Cell):
    """ids_T -> x_TD."""

    def __init__(self, vocabulary: int, width: int, dtype: str) -> None:
        super().__init__()
        self.weight = empty_parameter((vocabulary, width), dtype)

    def construct(self, ids_T: Tensor) -> Tensor:
        return kernels.embedding(self.weight, ids_T)


class Layers(nn.Cell):
    """Consecutive layers of the whole model under their numbers there, which are part of their parameters' names."""

    def __init__(self, layers: dict[int, nn.Cell]) -> None:
        super().__init__()
        self._numbers = tuple(layers)
        for number, layer in layers.items():
            self.insert_child_to_cell(str(number), layer)

    def __iter__(self) -> Iterator[nn.Cell]:
        return (self._cells[str(number)] for number in self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


def run_layer(layer: nn.Cell, recompute: bool, *inputs: Any) -> Tensor:
    """Run a layer; with `recompute` its activations are not kept but computed again in the backward pass."""
    return ms.recompute(layer, *inputs) if recompute else layer(*inputs)
