"""Low-rank adapters beside frozen linear layers. LoRA (arXiv 2106.09685), section 4.1. No rank or collective here.

An adapter's factors are fp32 whatever the model's dtype is, and cast to it where they are used: they are small, and an
update of 1e-5 is lost in bfloat16.

Dropout draws its masks on the host: `ops.dropout` draws another one when a layer is recomputed, and follows no seed
that could be saved. A mask is a function of seed, step, micro batch, layer and place, so that it is the same in every
layout, in a recomputed forward pass and after a resumption.

Legend: T tokens, D width in, R inner size, O width out.
"""

from __future__ import annotations

import hashlib
from math import prod

import numpy as np
from mindspore import Tensor, nn
from numpy.typing import NDArray

from qvl_core import kernels
from qvl_core.lora_table import Lora
from qvl_core.model.layers import Linear, empty_parameter

# A mask compares 16 random bits with the rate: as fine as anybody states one, at a quarter of a float's time.
_STEPS = 1 << 16


class AdapterDropout:
    """What all adapters of a model draw their masks from: it is told which micro batch runs, or that none trains."""

    def __init__(self, rate: float, seed: int) -> None:
        self._limit = min(round(rate * _STEPS), _STEPS - 1)
        self._seed = seed
        self._draw: tuple[int, int] | None = None

    def begin(self, step: int, micro_batch: int) -> None:
        """Drop from now on as in this micro batch of this step, which count over all replicas."""
        self._draw = (step, micro_batch)

    def end(self) -> None:
        """Drop nothing from now on: for validation."""
        self._draw = None

    @property
    def factor(self) -> float:
        """What makes up for the dropped elements; on the output, because bfloat16 would round it in the mask."""
        return _STEPS / (_STEPS - self._limit) if self._is_on else 1.0

    def __call__(self, x: Tensor, name: str, *, first: int, width: int) -> Tensor:
        """Drop elements of a layer's input, which is columns `first` on of the whole input of this width."""
        if not self._is_on:
            return x
        rows, columns = prod(x.shape[:-1]), x.shape[-1]
        kept = self.kept(name, rows, width)[:, first : first + columns]
        return x * Tensor(np.ascontiguousarray(kept).reshape(x.shape)).astype(x.dtype)

    @property
    def _is_on(self) -> bool:
        return self._draw is not None and self._limit > 0

    def kept(self, name: str, rows: int, width: int) -> NDArray[np.bool_]:
        """Give what the current micro batch keeps of a layer's whole input, bool [rows, width]."""
        assert self._draw is not None, "no micro batch has begun"
        step, micro_batch = self._draw
        digest = hashlib.sha256(f"{self._seed}/{step}/{micro_batch}/{name}".encode()).digest()
        # The generator's own words, four elements to each: the stream of no method is the same in every numpy.
        words = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(-(-rows * width // 4))
        return words.astype("<u8", copy=False).view("<u2")[: rows * width].reshape(rows, width) >= self._limit


class Factor(nn.Cell):
    """Holder of one factor, so that it is called `lora_A.weight`."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = empty_parameter((rows, columns), "float32")

    def construct(self, x: Tensor) -> Tensor:
        """Give x W^T in the dtype of x."""
        return kernels.linear(x, self.weight.astype(x.dtype))


class LoraLinear(nn.Cell):
    """x_TD -> y_TO: a linear layer, whose weight and bias it takes over under their names, and its adapter.

    `first` and `width` place a cut input in the whole one, for dropout.
    """

    def __init__(
        self, layer: Linear, lora: Lora, dropout: AdapterDropout, *, name: str, first: int = 0, width: int = 0
    ) -> None:
        super().__init__()
        rows, columns = layer.weight.shape
        self.weight = layer.weight
        self.bias = layer.bias
        self.lora_A = Factor(lora.rank, columns)
        self.lora_B = Factor(rows, lora.rank)
        self._scale = lora.scale
        self._dropout = dropout
        self._name = name
        self._first = first
        self._width = width or columns

    def update(self, x_TD: Tensor) -> Tensor:
        """Give the adapter's part of the output, without that of other tensor ranks."""
        x_TD = self._dropout(x_TD, self._name, first=self._first, width=self._width)
        return self.lora_B(self.lora_A(x_TD)) * (self._scale * self._dropout.factor)

    def construct(self, x_TD: Tensor) -> Tensor:
        return kernels.linear(x_TD, self.weight, self.bias) + self.update(x_TD)
