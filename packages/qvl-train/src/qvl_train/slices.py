"""How ZeRO-1 cuts tensors over replicas: equal slices of the flat elements, several tensors to a message. Pure.

Rajbhandari et al. (arXiv 1910.02054), section 5.1. A bucket is a matrix [replicas, width]: row i holds slice i of every
tensor in it, so that one reduce-scatter of the flat bucket gives each replica its slices and one all-gather undoes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Elements of one message: 64 MiB of fp32, far beyond where a link reaches full speed, small beside the gradients.
BUCKET_ELEMENTS = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One tensor in a bucket: its index, its elements, and where its slices begin in the bucket's rows.

    Its elements are filled up with zeros to replicas * `length`, so that every replica has a slice of this length.
    """

    index: int
    size: int
    start: int
    length: int


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Tensors that travel together. `width` is the length of a row."""

    slots: tuple[Slot, ...]
    width: int


def slice_length(size: int, replicas: int) -> int:
    """Give the elements of a replica's slice: the part rounded up."""
    return -(-size // replicas)


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one of `replicas` has of every tensor: slice `index` of its flat elements."""

    index: int
    replicas: int

    def length(self, size: int) -> int:
        """Give the elements of the slice of a tensor of `size`, filling included."""
        return slice_length(size, self.replicas)

    def of(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """Give a copy of the slice of an array, fp32 [length], filled up with zeros."""
        length = self.length(array.size)
        part = np.ascontiguousarray(array).reshape(-1)[self.index * length : (self.index + 1) * length]
        return np.concatenate([part, np.zeros(length - len(part), np.float32)]).astype(np.float32)


def plan_buckets(sizes: Sequence[int], replicas: int, limit: int = BUCKET_ELEMENTS) -> tuple[Bucket, ...]:
    """Deal tensors of these sizes, in order, to buckets of at most `limit` elements; a larger tensor comes alone."""
    buckets: list[Bucket] = []
    slots: list[Slot] = []
    width = 0
    for index, size in enumerate(sizes):
        length = slice_length(size, replicas)
        if slots and (width + length) * replicas > limit:
            buckets.append(Bucket(slots=tuple(slots), width=width))
            slots, width = [], 0
        slots.append(Slot(index=index, size=size, start=width, length=length))
        width += length
    if slots:
        buckets.append(Bucket(slots=tuple(slots), width=width))
    return tuple(buckets)
