"""AdamW over the trainable parameters: decay groups, rates by component, fp32 master weights.

The update itself is a kernel; here is what it is applied to and with which numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor
from numpy.typing import NDArray
from qvl_core import kernels
from qvl_core.params import Parameter as TableRow
from qvl_core.weights.optimizer_state import OPTIMIZER_KINDS, state_name


@dataclass(frozen=True, kw_only=True)
class AdamWSettings:
    """The recipe's numbers. `lr_scale` multiplies the scheduled rate for a component; left out means 1."""

    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    lr_scale: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class _Slot:
    name: str
    parameter: Parameter
    master: Parameter
    moment1: Parameter
    moment2: Parameter
    lr_scale: float
    weight_decay: float


class AdamW:
    """Hold moments, and master weights where the model is not fp32, for the parameters given.

    Norm weights and biases (everything with one dimension) are not decayed, as in the HF Trainer.
    """

    def __init__(self, parameters: Mapping[str, Parameter], table: Sequence[TableRow], settings: AdamWSettings) -> None:
        self._settings = settings
        components = {row.name: row.component for row in table}
        self._slots = [
            _slot(name, parameter, settings, settings.lr_scale.get(components[name], 1.0))
            for name, parameter in parameters.items()
        ]

    def update(self, gradients: Sequence[Tensor], *, lr: float, step: int) -> None:
        """Apply update number `step` (from 1) with fp32 gradients in the order of the parameters."""
        chosen = self._settings
        for slot, gradient in zip(self._slots, gradients, strict=True):
            kernels.adamw_update(
                slot.master,
                slot.moment1,
                slot.moment2,
                gradient,
                lr=lr * slot.lr_scale,
                beta1=chosen.beta1,
                beta2=chosen.beta2,
                eps=chosen.eps,
                weight_decay=slot.weight_decay,
                step=step,
            )
            if slot.master is not slot.parameter:
                slot.parameter.set_data(slot.master.astype(slot.parameter.dtype))

    def state(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield (`<parameter>.<kind>`, array) for moments and master weights, in the order of the parameters."""
        for slot in self._slots:
            for key, value in _tensors(slot):
                yield state_name(slot.name, key), value.asnumpy()

    def load_state(self, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        """Set what `state` gave. The caller has checked that names and shapes are those of `state_shapes`."""
        for slot in self._slots:
            for key, value in _tensors(slot):
                value.set_data(Tensor(np.ascontiguousarray(arrays[state_name(slot.name, key)])))
            if slot.master is not slot.parameter:
                slot.parameter.set_data(slot.master.astype(slot.parameter.dtype))

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Map every name that `state` yields to its shape."""
        return {state_name(slot.name, key): tuple(value.shape) for slot in self._slots for key, value in _tensors(slot)}


def _slot(name: str, parameter: Parameter, settings: AdamWSettings, lr_scale: float) -> _Slot:
    shape = tuple(parameter.shape)
    # fp32 weights are their own master: a copy would cost memory and change nothing.
    master = parameter if parameter.dtype == ms.float32 else Parameter(parameter.astype(ms.float32))
    return _Slot(
        name=name,
        parameter=parameter,
        master=master,
        moment1=Parameter(Tensor(np.zeros(shape, np.float32))),
        moment2=Parameter(Tensor(np.zeros(shape, np.float32))),
        lr_scale=lr_scale,
        weight_decay=settings.weight_decay if len(shape) > 1 else 0.0,
    )


def _tensors(slot: _Slot) -> list[tuple[str, Parameter]]:
    pairs = list(zip(OPTIMIZER_KINDS, (slot.moment1, slot.moment2, slot.master), strict=True))
    return pairs[:-1] if slot.master is slot.parameter else pairs
