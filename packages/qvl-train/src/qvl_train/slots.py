"""The state of AdamW, fp32, and the update on it: one tensor at a time, or many small ones joined into a flat one.

An operation costs 0.06 ms on CPU however small it is, and most tensors of a model are norms and biases. What is joined
is updated by the same operation on the same elements, so the numbers stay; the rules below keep even their bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops
from numpy.typing import NDArray
from qvl_core import kernels
from qvl_core.device import current_device
from qvl_core.params import EMBEDDING
from qvl_core.params import Parameter as TableRow
from qvl_core.weights.optimizer_state import OPTIMIZER_KINDS, state_name

from qvl_train.slices import Share

# Tensors of at most this many elements are joined: above, nothing is gained for the memory that it takes (measured).
JOINED_ELEMENTS = 1 << 14
# The Adam kernel of the CPU rounds an element one way in a full vector register and another way in what is left at the
# end of a thread's share. Where every tensor and every share is whole registers long, it does not matter what else is
# in the message: sizes that 16 divides, and a flat length that 64 threads share evenly.
LANES = 16
FLAT_MULTIPLE = 64 * LANES


@dataclass(frozen=True, kw_only=True)
class AdamWSettings:
    """The recipe's numbers. `lr_scale` multiplies the scheduled rate for a component; left out means 1."""

    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    lr_scale: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Part:
    """An fp32 tensor of state: `whole` itself, or its elements from `start` on, in `shape`."""

    whole: Parameter
    start: int
    shape: tuple[int, ...]

    @property
    def stop(self) -> int:
        """Give where the elements end."""
        return self.start + int(np.prod(self.shape))

    def tensor(self) -> Tensor:
        """Give the values on the device; may be a view."""
        if tuple(self.whole.shape) == self.shape:
            return self.whole
        return self.whole[self.start : self.stop].reshape(self.shape)

    def asnumpy(self) -> NDArray[np.float32]:
        """Give the values; may be a view of what the next update changes."""
        if current_device() != "cpu" and tuple(self.whole.shape) != self.shape:
            # Only its own elements travel: every part of a joined tensor would bring all of it.
            own: NDArray[np.float32] = self.tensor().asnumpy()
            return own
        array: NDArray[np.float32] = self.whole.asnumpy().reshape(-1)[self.start : self.stop].reshape(self.shape)
        return array


@dataclass(frozen=True, kw_only=True)
class Slot:
    """State of one parameter, of its shape or of a slice of it. `has_master`: the fp32 weights are not the parameter.

    Where the model is fp32 they are no state, for the parameter says the same.
    """

    name: str
    parameter: Parameter
    master: Part
    moment1: Part
    moment2: Part
    has_master: bool

    def state(self) -> list[tuple[str, Part]]:
        """List (kind, values) of what a checkpoint keeps."""
        pairs = list(zip(OPTIMIZER_KINDS, (self.moment1, self.moment2, self.master), strict=True))
        return pairs if self.has_master else pairs[:-1]


@dataclass(frozen=True, kw_only=True)
class _Group:
    """What one operation updates: the slots' state, flat if they are several, and zeros up to its length."""

    indexes: tuple[int, ...]
    master: Parameter
    moment1: Parameter
    moment2: Parameter
    filling: Tensor | None
    lr_scale: float
    weight_decay: float


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A parameter before its state exists: which part of it this rank updates, and with which numbers."""

    name: str
    parameter: Parameter
    share: Share | None
    lr_scale: float
    weight_decay: float
    has_master: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Give the shape of its state."""
        shape = tuple(self.parameter.shape)
        return shape if self.share is None else (self.share.length(int(np.prod(shape))),)

    def values(self) -> NDArray[np.float32]:
        """Give the fp32 weights to begin with."""
        array: NDArray[np.float32] = _cast(self.parameter, ms.float32).asnumpy()
        return array if self.share is None else self.share.of(array)


class Slots:
    """The slots of parameters, in their order, and the update of all of them.

    The parameters have their values already: what changes one later, but for an update, is not seen.
    """

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        table: Sequence[TableRow],
        settings: AdamWSettings,
        *,
        share: Share | None = None,
        separate_masters: bool = False,
        joined_elements: int = JOINED_ELEMENTS,
    ) -> None:
        """Begin with moments of zeros, for whole parameters or for a share of each.

        `separate_masters` keeps master weights as state for fp32 parameters too: the same numbers, told twice.
        """
        self._settings = settings
        self._share = share
        self._groups: list[_Group] = []
        slots: dict[int, Slot] = {}
        components = {row.name: row.component for row in table}
        joined: dict[tuple[Any, ...], list[tuple[int, _Row]]] = {}
        for index, (name, parameter) in enumerate(parameters.items()):
            row = _Row(
                name=name,
                parameter=parameter,
                share=share,
                lr_scale=settings.lr_scale.get(components[name], 1.0),
                weight_decay=settings.weight_decay if len(parameter.shape) > 1 else 0.0,
                has_master=separate_masters or parameter.dtype != ms.float32,
            )
            key = (row.lr_scale, row.weight_decay, parameter.dtype) if _can_join(row, joined_elements) else (index,)
            joined.setdefault(key, []).append((index, row))
        for members in joined.values():
            group, made = _make_group(members)
            self._groups.append(group)
            slots.update(made)
        self.all: tuple[Slot, ...] = tuple(slots[index] for index in range(len(parameters)))

    def update(self, gradients: Sequence[Tensor], *, lr: float, step: int, scale: float) -> None:
        """Change masters and moments by update number `step` (from 1) with `scale` times the fp32 gradients.

        The gradients are those of the slots, in their order and shapes. The parameters are the caller's, but where
        one is its own master.
        """
        settings = self._settings
        # A tensor: MindSpore keeps every Python float it has seen.
        factor = Tensor(scale, ms.float32) if scale != 1.0 else None
        for group in self._groups:
            gradient = _gradient(group, gradients)
            # One group at a time: a list of scaled gradients would hold all of them twice.
            kernels.adamw_update(
                group.master,
                group.moment1,
                group.moment2,
                gradient if factor is None else gradient * factor,
                lr=lr * group.lr_scale,
                beta1=settings.beta1,
                beta2=settings.beta2,
                eps=settings.eps,
                weight_decay=group.weight_decay,
                step=step,
            )

    def write_back(self) -> None:
        """Set every parameter to its master weights, rounded to its dtype; slots hold whole parameters here."""
        for group in self._groups:
            parameters = [self.all[index].parameter for index in group.indexes]
            if group.master is not parameters[0]:
                kernels.deal(group.master, parameters)

    def load(self, arrays: Iterable[tuple[str, NDArray[np.float32]]]) -> None:
        """Set state by `<parameter>.<kind>`, from arrays of the parameters' shapes. KeyError for what is not listed."""
        parts = {state_name(slot.name, kind): part for slot in self.all for kind, part in slot.state()}
        flat: dict[int, tuple[Parameter, NDArray[np.float32]]] = {}
        for name, array in arrays:
            part, values = parts[name], array if self._share is None else self._share.of(array)
            if tuple(part.whole.shape) == part.shape:
                ops.assign(part.whole, Tensor(np.ascontiguousarray(values)))
                continue
            # Flat tensors are small, and written once: a write for each of their parts would be quadratic.
            _, all_values = flat.setdefault(id(part.whole), (part.whole, part.whole.asnumpy().copy()))
            all_values[part.start : part.stop] = values.reshape(-1)
        for whole, all_values in flat.values():
            ops.assign(whole, Tensor(all_values))

    def refine(self, weights: Iterable[tuple[str, NDArray[np.float32]]]) -> None:
        """Set master weights by their parameters' names, where there are any; other weights are passed over."""
        held = {slot.name for slot in self.all if slot.has_master}
        self.load((state_name(name, "master"), array) for name, array in weights if name in held)


def _gradient(group: _Group, gradients: Sequence[Tensor]) -> Tensor:
    if len(group.indexes) == 1:
        return gradients[group.indexes[0]]
    filling = () if group.filling is None else (group.filling,)
    return kernels.join([*(gradients[index] for index in group.indexes), *filling])


def _make_group(members: Sequence[tuple[int, _Row]]) -> tuple[_Group, dict[int, Slot]]:
    """Give the group of one row, or of several whose state is joined, and the slots in it by index."""
    first = members[0][1]
    if len(members) > 1:
        flat = np.concatenate([row.values().reshape(-1) for _, row in members])
        missing = -len(flat) % FLAT_MULTIPLE
        master = Parameter(Tensor(np.concatenate([flat, np.zeros(missing, np.float32)])))
    else:
        missing = 0
        # fp32 weights are their own master: a copy would cost memory and change nothing.
        is_own = first.share is None and not first.has_master
        master = first.parameter if is_own else Parameter(Tensor(first.values()))
    moment1, moment2 = (Parameter(Tensor(np.zeros(tuple(master.shape), np.float32))) for _ in range(2))
    slots: dict[int, Slot] = {}
    start = 0
    for index, row in members:
        parts = [Part(whole=whole, start=start, shape=row.shape) for whole in (master, moment1, moment2)]
        slots[index] = Slot(
            name=row.name,
            parameter=row.parameter,
            master=parts[0],
            moment1=parts[1],
            moment2=parts[2],
            has_master=row.has_master,
        )
        start = parts[0].stop
    group = _Group(
        indexes=tuple(slots),
        master=master,
        moment1=moment1,
        moment2=moment2,
        filling=Tensor(np.zeros(missing, np.float32)) if missing else None,
        lr_scale=first.lr_scale,
        weight_decay=first.weight_decay,
    )
    return group, slots


def _can_join(row: _Row, limit: int) -> bool:
    """Tell whether a row may share a flat tensor.

    A tied embedding lies on two stages, among other parameters on each: alone, both copies keep the same bits.
    """
    size = int(np.prod(row.shape))
    return 0 < size <= limit and size % LANES == 0 and row.name != EMBEDDING


def _cast(value: Tensor, dtype: Any) -> Tensor:
    return value if value.dtype == dtype else value.astype(dtype)
