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
class StoredTensor:
    """`read` gives the values, an array of the shape; bfloat16 as raw bits or as MindSpore's numpy dtype of that name.

    Where optimizer state is cut over replicas, `read` gathers it: all replicas call it, for the same tensors in the
    same order.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], NDArray[Any]]

    def bits(self) -> NDArray[Any]:
        """Read the values with a dtype that numpy knows: bfloat16 as uint16."""
        array = np.ascontiguousarray(self.read())
        return array.view(np.uint16) if self.dtype == "BF16" else array

    def to_write(self) -> TensorToWrite:
        """Give the tensor for a file; it is read when the tensors before it are written."""

        def chunks() -> Iterator[bytes | memoryview]:
            yield from tensor_from_array(self.name, self.bits(), self.dtype).chunks()

        return TensorToWrite(name=self.name, dtype=self.dtype, shape=self.shape, chunks=chunks)
