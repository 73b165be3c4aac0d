"""AdamW over the trainable parameters: decay groups, rates by component, fp32 master weights.

The update itself is a kernel, `slots` is what it is applied to and with which numbers. `sliced_optimizer` does the
same with state that is cut over the replicas.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from mindspore import Parameter, Tensor
from numpy.typing import NDArray
from qvl_core.params import Parameter as TableRow
from qvl_core.weights.optimizer_state import state_name

from qvl_train.slots import JOINED_ELEMENTS, Slots
from qvl_train.slots import AdamWSettings as AdamWSettings
from qvl_train.stored_tensor import StoredTensor

if TYPE_CHECKING:
    from qvl_core.parallel.world import Group


class Optimizer(Protocol):
    """What a training step and a checkpoint need. All lists are in the order of `names`."""

    names: tuple[str, ...]

    def over_replicas(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Give what this rank updates with: the sums over the replicas, of whole tensors or of its slices."""
        ...

    def counts(self, index: int) -> bool:
        """Tell whether this replica, and no other, counts result `index` of `over_replicas` into the norm."""
        ...

    def update(self, gradients: Sequence[Tensor], *, lr: float, step: int, scale: float = 1.0) -> None:
        """Apply update number `step` (from 1) with `scale` times the fp32 results of `over_replicas`."""
        ...

    def stored(self) -> list[StoredTensor]:
        """List `<parameter>.<kind>` for moments and master weights, each of its parameter's shape."""
        ...

    def load(self, arrays: Iterable[tuple[str, NDArray[np.float32]]]) -> None:
        """Set what `stored` listed. The caller has checked that names and shapes are the same."""
        ...

    def refine(self, weights: Iterable[tuple[str, NDArray[np.float32]]]) -> None:
        """Take the master weights from what the parameters were rounded from; names without one are passed over."""
        ...


class AdamW:
    """Hold moments, and master weights where the model is not fp32, for the parameters given.

    Norm weights and biases (everything with one dimension) are not decayed, as in the HF Trainer. The replicas of
    `group` all do the same.
    """

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        table: Sequence[TableRow],
        settings: AdamWSettings,
        group: Group,
        *,
        separate_masters: bool = False,
        joined_elements: int = JOINED_ELEMENTS,
    ) -> None:
        self.names = tuple(parameters)
        self._group = group
        self._slots = Slots(
            parameters, table, settings, separate_masters=separate_masters, joined_elements=joined_elements
        )

    def over_replicas(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Give the sums over the replicas."""
        return self._group.sum_many(gradients) if gradients else []

    def counts(self, index: int) -> bool:
        """Tell whether this replica counts gradient `index`: they share the work, for all have all."""
        return index % self._group.size == self._group.index

    def update(self, gradients: Sequence[Tensor], *, lr: float, step: int, scale: float = 1.0) -> None:
        """Apply update number `step` (from 1) with `scale` times fp32 gradients in the order of the parameters."""
        self._slots.update(gradients, lr=lr, step=step, scale=scale)
        self._slots.write_back()

    def stored(self) -> list[StoredTensor]:
        """List the state."""
        return [
            StoredTensor(name=state_name(slot.name, kind), dtype="F32", shape=part.shape, read=part.asnumpy)
            for slot in self._slots.all
            for kind, part in slot.state()
        ]

    def load(self, arrays: Iterable[tuple[str, NDArray[np.float32]]]) -> None:
        """Set the state; the weights follow the master weights."""
        self._slots.load(arrays)
        self._slots.write_back()

    def refine(self, weights: Iterable[tuple[str, NDArray[np.float32]]]) -> None:
        """Take the master weights from these; the parameters are these, rounded, already."""
        self._slots.refine(weights)
