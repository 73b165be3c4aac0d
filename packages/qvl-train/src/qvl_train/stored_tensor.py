"""A tensor that a checkpoint stores: known by shape, read when it is its turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qvl_core.weights.safetensors_writer import TensorToWrite
from qvl_core.weights.tensor_io import tensor_from_array


@dataclass(frozen=True, kw_only=True)
class OwnPart:
    """The flat elements `start` to `stop` of a tensor, held by this replica alone; `read` needs no other rank.

    The parts of all replicas together are the tensor. A part may be empty.
    """

    start: int
    stop: int
    read: Callable[[], NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """`read` gives the values, an array of the shape; bfloat16 as raw bits or as MindSpore's numpy dtype of that name.

    Where optimizer state is cut over replicas, `read` gathers it: all replicas call it, for the same tensors in the
    same order. A checkpoint reads `own` instead, which is None where every replica holds the whole tensor.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], NDArray[Any]]
    own: OwnPart | None = None

    def bits(self) -> NDArray[Any]:
        """Read the values with a dtype that numpy knows: bfloat16 as uint16."""
        return self._known(self.read())

    def own_bits(self) -> NDArray[Any]:
        """Read the flat elements that this rank holds, without any other rank, with a dtype that numpy knows."""
        return self._known(self.own.read() if self.own is not None else self.read()).reshape(-1)

    def to_write(self) -> TensorToWrite:
        """Give the tensor for a file; it is read when the tensors before it are written."""

        def chunks() -> Iterator[bytes | memoryview]:
            yield from tensor_from_array(self.name, self.bits(), self.dtype).chunks()

        return TensorToWrite(name=self.name, dtype=self.dtype, shape=self.shape, chunks=chunks)

    def _known(self, values: NDArray[Any]) -> NDArray[Any]:
        array = np.ascontiguousarray(values)
        return array.view(np.uint16) if self.dtype == "BF16" else array
