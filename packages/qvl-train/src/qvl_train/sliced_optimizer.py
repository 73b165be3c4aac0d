"""ZeRO-1: AdamW whose moments and master weights are cut over the replicas, each updating its slice of every parameter.

Rajbhandari et al. (arXiv 1910.02054), section 5.1. Gradients are added straight into their owner's slice, updated
weights are gathered; the numbers are those of `AdamW`, which is elementwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from mindspore import Parameter, Tensor, ops
from numpy.typing import NDArray
from qvl_core import kernels
from qvl_core.params import Parameter as TableRow
from qvl_core.weights.optimizer_state import state_name

from qvl_train.slices import BUCKET_ELEMENTS, Bucket, Share, plan_buckets, slice_length
from qvl_train.slots import JOINED_ELEMENTS, AdamWSettings, Part, Slot, Slots
from qvl_train.stored_tensor import OwnPart, StoredTensor

if TYPE_CHECKING:
    from qvl_core.parallel.world import Group


class SlicedAdamW:
    """Hold this replica's slice of moments and fp32 master weights for the parameters given."""

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        table: Sequence[TableRow],
        settings: AdamWSettings,
        group: Group,
        *,
        bucket_elements: int = BUCKET_ELEMENTS,
        separate_masters: bool = False,
        joined_elements: int = JOINED_ELEMENTS,
    ) -> None:
        self.names = tuple(parameters)
        self._group = group
        self._slots = Slots(
            parameters,
            table,
            settings,
            share=Share(index=group.index, replicas=group.size),
            separate_masters=separate_masters,
            joined_elements=joined_elements,
        )
        sizes = [prod(slot.parameter.shape) for slot in self._slots.all]
        self._buckets = plan_buckets(sizes, group.size, bucket_elements)

    def over_replicas(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Give this replica's slice of every gradient's sum, the filling of the last slices included (zeros)."""
        slices: list[Tensor] = []
        for bucket in self._buckets:
            block = self._group.scatter_sum(self._packed(bucket, gradients))
            slices += [block[slot.start : slot.start + slot.length] for slot in bucket.slots]
        return slices

    def counts(self, index: int) -> bool:
        """Tell that this replica counts its slice: nobody else has it."""
        return True

    def update(self, gradients: Sequence[Tensor], *, lr: float, step: int, scale: float = 1.0) -> None:
        """Apply update number `step` (from 1) to the slices, then gather the weights of all replicas."""
        self._slots.update(gradients, lr=lr, step=step, scale=scale)
        for bucket in self._buckets:
            self._gather_weights(bucket)

    def stored(self) -> list[StoredTensor]:
        """List the state; reading a whole tensor of it gathers its slices, so that all replicas have to read it."""
        return [
            StoredTensor(
                name=state_name(slot.name, kind),
                dtype="F32",
                shape=tuple(slot.parameter.shape),
                read=self._reader(slot, part),
                own=self._own(slot, part),
            )
            for slot in self._slots.all
            for kind, part in slot.state()
        ]

    def load(self, arrays: Iterable[tuple[str, NDArray[np.float32]]]) -> None:
        """Take this replica's slices of the state. The weights that follow from it are in the model already."""
        self._slots.load(arrays)

    def refine(self, weights: Iterable[tuple[str, NDArray[np.float32]]]) -> None:
        """Take this replica's slices of the master weights; the parameters are these, rounded, already."""
        self._slots.refine(weights)

    def _gather_weights(self, bucket: Bucket) -> None:
        """Give every replica the weights that follow from all replicas' master slices."""
        slots = [self._slots.all[slot.index] for slot in bucket.slots]
        parts = [slot.master.tensor().astype(slot.parameter.dtype) for slot in slots]
        gathered = self._group.gather(_joined(parts))
        if self._group.size == 1:
            # Nothing is cut: the tensors lie one after the other.
            kernels.deal(gathered, [slot.parameter for slot in slots])
            return
        rows = gathered.reshape(self._group.size, bucket.width)
        for place, slot in zip(bucket.slots, slots, strict=True):
            # A bucket of one tensor, as a large one is, is not cut.
            own = rows if place.length == bucket.width else rows[:, place.start : place.start + place.length]
            kernels.deal(own.reshape(-1), [slot.parameter])

    def _packed(self, bucket: Bucket, gradients: Sequence[Tensor]) -> Tensor:
        """Give the flat bucket [replicas * width]: row i holds slice i of every gradient in it."""
        rows = []
        for slot in bucket.slots:
            flat = gradients[slot.index].reshape(-1)
            missing = slot.length * self._group.size - slot.size
            filled = ops.cat((flat, ops.zeros((missing,), flat.dtype))) if missing else flat
            rows.append(filled.reshape(self._group.size, slot.length))
        return (ops.cat(rows, 1) if len(rows) > 1 else rows[0]).reshape(-1)

    def _own(self, slot: Slot, part: Part) -> OwnPart:
        """Give this replica's slice without its filling."""
        size, length = prod(slot.parameter.shape), slice_length(prod(slot.parameter.shape), self._group.size)
        start = min(self._group.index * length, size)
        stop = min(start + length, size)
        return OwnPart(start=start, stop=stop, read=lambda: part.asnumpy()[: stop - start])

    def _reader(self, slot: Slot, part: Part) -> Callable[[], NDArray[Any]]:
        shape = tuple(slot.parameter.shape)

        def read() -> NDArray[Any]:
            return self._group.gather(part.tensor()).asnumpy()[: prod(shape)].reshape(shape)

        return read


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return ops.cat(list(parts)) if len(parts) > 1 else parts[0]
