"""What a rank puts into a checkpoint, as it is at one moment: copied into host buffers that every save uses again.

Copies have to be real ones. On CPU `asnumpy()` shares memory with the tensor, and the optimizer's kernel writes in
place: a view would hold the weights of a later step, or half of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qvl_core.weights.safetensors_header import DTYPE_BYTES

from qvl_train.stored_tensor import OwnPart, StoredTensor

# A bfloat16 is kept as its bits.
_NUMPY = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a rank puts into a checkpoint: its parts of weights and optimizer state, which is None where not wanted."""

    weights: Sequence[StoredTensor]
    optimizer: Sequence[StoredTensor] | None


@dataclass(frozen=True, kw_only=True)
class Held:
    """One tensor of a snapshot. `read` gives its flat elements from `start` to `stop`, in a dtype of numpy's.

    `is_part` tells that the other replicas hold the rest. `shape` is that of the whole tensor.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int
    is_part: bool
    read: Callable[[], NDArray[Any]]

    @property
    def size(self) -> int:
        """Bytes of the elements held."""
        return (self.stop - self.start) * DTYPE_BYTES[self.dtype]

    def bytes(self) -> memoryview:
        """Give the elements' bytes."""
        return self.read().view(np.uint8).data


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What a checkpoint will hold of this rank."""

    weights: Sequence[Held]
    optimizer: Sequence[Held] | None

    def all(self) -> tuple[Held, ...]:
        """Give weights and optimizer state."""
        return (*self.weights, *(self.optimizer or ()))

    @property
    def is_cut(self) -> bool:
        """Whether optimizer state is cut over the replicas, so that each of them writes."""
        return any(held.is_part for held in self.optimizer or ())


class HostBuffers:
    """Memory for snapshots, used again from save to save: one snapshot at a time."""

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray[Any]] = {}

    def prepare(self, contents: Contents, *, is_first_replica: bool) -> None:
        """Take the memory before the first save needs it: the system hands out pages ten times slower than it copies.

        Reads no tensor, so that it may run beside the first steps.
        """
        for held in present_values(contents, is_first_replica=is_first_replica).all():
            self._buffers[held.name] = np.zeros(held.stop - held.start, _NUMPY[held.dtype])
            # Zeros are not in memory before they are written.
            self._buffers[held.name].fill(0)

    def snapshot(self, contents: Contents, *, is_first_replica: bool) -> Snapshot:
        """Copy what this rank holds. Whole optimizer state is the first replica's to write: others leave it out."""
        return _snapshot(contents, self._copied, is_first_replica)

    def _copied(self, tensor: StoredTensor) -> Callable[[], NDArray[Any]]:
        values = tensor.own_bits()
        buffer = self._buffers.get(tensor.name)
        if buffer is None or buffer.shape != values.shape or buffer.dtype != values.dtype:
            buffer = self._buffers[tensor.name] = np.empty_like(values)
        np.copyto(buffer, values)
        return lambda: buffer


def present_values(contents: Contents, *, is_first_replica: bool) -> Snapshot:
    """Give a snapshot that copies nothing: for a caller that lets nothing change until it is written."""
    return _snapshot(contents, lambda tensor: tensor.own_bits, is_first_replica)


def _nothing_of(tensor: StoredTensor) -> StoredTensor:
    return replace(tensor, own=OwnPart(start=0, stop=0, read=lambda: np.empty(0, _NUMPY[tensor.dtype])))


def _snapshot(
    contents: Contents, reader: Callable[[StoredTensor], Callable[[], NDArray[Any]]], is_first_replica: bool
) -> Snapshot:
    def hold(tensor: StoredTensor) -> Held:
        own = tensor.own
        return Held(
            name=tensor.name,
            dtype=tensor.dtype,
            shape=tensor.shape,
            start=own.start if own is not None else 0,
            stop=own.stop if own is not None else prod(tensor.shape),
            is_part=own is not None,
            read=reader(tensor),
        )

    if contents.optimizer is None:
        optimizer = None
    elif is_first_replica:
        optimizer = [hold(tensor) for tensor in contents.optimizer]
    elif any(tensor.own is not None for tensor in contents.optimizer):
        # All that write one file have to know all that is in it: of whole tensors, the others write nothing.
        optimizer = [hold(tensor if tensor.own is not None else _nothing_of(tensor)) for tensor in contents.optimizer]
    else:
        optimizer = []
    return Snapshot(weights=[hold(tensor) for tensor in contents.weights], optimizer=optimizer)
