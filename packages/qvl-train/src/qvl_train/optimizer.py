"""AdamW over the trainable parameters: decay groups, rates by component, fp32 master weights.

The update itself is a kernel; here is what it is applied to and with which numbers. `sliced_optimizer` does the same
with state that is cut over the replicas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor
from numpy.typing import NDArray
from qvl_core import kernels
from qvl_core.params import Parameter as TableRow
from qvl_core.weights.optimizer_state import OPTIMIZER_KINDS, split_name, state_name

from qvl_train.stored_tensor import StoredTensor

if TYPE_CHECKING:
    from qvl_core.parallel.world import Group


@dataclass(frozen=True, kw_only=True)
class AdamWSettings:
    """The recipe's numbers. `lr_scale` multiplies the scheduled rate for a component; left out means 1."""

    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    lr_scale: Mapping[str, float]


class Optimizer(Protocol):
    """What a training step and a checkpoint need. All lists are in the order of `names`."""

    names: tuple[str, ...]

    def over_replicas(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Give what this rank updates with: the sums over the replicas, of whole tensors or of its slices."""
        ...

    def counts(self, index: int) -> bool:
        """Tell whether this replica, and no other, counts result `index` of `over_replicas` into the norm."""
        ...

    def update(self, gradients: Sequence[Tensor], *, lr: float, step: int) -> None:
        """Apply update number `step` (from 1) with the fp32 results of `over_replicas`."""
        ...

    def stored(self) -> list[StoredTensor]:
        """List `<parameter>.<kind>` for moments and master weights, each of its parameter's shape."""
        ...

    def load(self, arrays: Iterable[tuple[str, NDArray[np.float32]]]) -> None:
        """Set what `stored` listed. The caller has checked that names and shapes are the same."""
        ...


@dataclass(frozen=True, kw_only=True)
class Slot:
    """State of one parameter: moments and fp32 master, of its shape or of a slice of it."""

    name: str
    parameter: Parameter
    master: Parameter
    moment1: Parameter
    moment2: Parameter
    lr_scale: float
    weight_decay: float

    def state(self) -> list[tuple[str, Parameter]]:
        """List (kind, values) of what a checkpoint keeps; fp32 weights are their own master."""
        pairs = list(zip(OPTIMIZER_KINDS, (self.moment1, self.moment2, self.master), strict=True))
        return pairs[:-1] if self.parameter.dtype == ms.float32 else pairs


class AdamW:
    """Hold moments, and master weights where the model is not fp32, for the parameters given.

    Norm weights and biases (everything with one dimension) are not decayed, as in the HF Trainer. The replicas of
    `group` all do the same.
    """

    def __init__(
        self, parameters: Mapping[str, Parameter], table: Sequence[TableRow], settings: AdamWSettings, group: Group
    ) -> None:
        self.names = tuple(parameters)
        self._settings = settings
        self._group = group
        self._slots = make_slots(parameters, table, settings, _whole)

    def over_replicas(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Give the sums over the replicas."""
        return self._group.sum_many(gradients) if gradients else []

    def counts(self, index: int) -> bool:
        """Tell whether this replica counts gradient `index`: they share the work, for all have all."""
        return index % self._group.size == self._group.index

    def update(self, gradients: Sequence[Tensor], *, lr: float, step: int) -> None:
        """Apply update number `step` (from 1) with fp32 gradients in the order of the parameters."""
        for slot, gradient in zip(self._slots, gradients, strict=True):
            update_slot(slot, gradient, self._settings, lr=lr, step=step)
            if slot.master is not slot.parameter:
                slot.parameter.set_data(slot.master.astype(slot.parameter.dtype))

    def stored(self) -> list[StoredTensor]:
        """List the state."""
        return [
            StoredTensor(name=state_name(slot.name, kind), dtype="F32", shape=tuple(value.shape), read=_reader(value))
            for slot in self._slots
            for kind, value in slot.state()
        ]

    def load(self, arrays: Iterable[tuple[str, NDArray[np.float32]]]) -> None:
        """Set the state; the weights follow the master weights."""
        values = {state_name(slot.name, kind): (slot, value) for slot in self._slots for kind, value in slot.state()}
        for name, array in arrays:
            slot, value = values[name]
            value.set_data(Tensor(np.ascontiguousarray(array)))
            if split_name(name)[1] == "master":
                slot.parameter.set_data(slot.master.astype(slot.parameter.dtype))


def make_slots(
    parameters: Mapping[str, Parameter],
    table: Sequence[TableRow],
    settings: AdamWSettings,
    master_of: Callable[[Parameter], Parameter],
) -> list[Slot]:
    """Give the slots of parameters, with moments of zeros; `master_of` makes the fp32 weights that are updated."""
    components = {row.name: row.component for row in table}
    slots = []
    for name, parameter in parameters.items():
        master = master_of(parameter)
        shape = tuple(master.shape)
        slots.append(
            Slot(
                name=name,
                parameter=parameter,
                master=master,
                moment1=Parameter(Tensor(np.zeros(shape, np.float32))),
                moment2=Parameter(Tensor(np.zeros(shape, np.float32))),
                lr_scale=settings.lr_scale.get(components[name], 1.0),
                weight_decay=settings.weight_decay if len(parameter.shape) > 1 else 0.0,
            )
        )
    return slots


def update_slot(slot: Slot, gradient: Tensor, settings: AdamWSettings, *, lr: float, step: int) -> None:
    """Change master and moments by one update; the parameter itself is the caller's, where it is not the master."""
    kernels.adamw_update(
        slot.master,
        slot.moment1,
        slot.moment2,
        gradient,
        lr=lr * slot.lr_scale,
        beta1=settings.beta1,
        beta2=settings.beta2,
        eps=settings.eps,
        weight_decay=slot.weight_decay,
        step=step,
    )


def _whole(parameter: Parameter) -> Parameter:
    # fp32 weights are their own master: a copy would cost memory and change nothing.
    return parameter if parameter.dtype == ms.float32 else Parameter(parameter.astype(ms.float32))


def _reader(value: Parameter) -> Callable[[], NDArray[Any]]:
    return value.asnumpy
