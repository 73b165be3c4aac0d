"""Random weights for training from nothing and for tests. numpy only.

Every tensor has its own random stream, keyed by seed and name: its values do not depend on the order in which tensors
are drawn, nor on which other tensors a rank holds.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from qvl_core.params import Parameter, parameter_table
from qvl_core.specs.model_spec import ModelSpec


def random_weights(spec: ModelSpec, seed: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield (name, fp32 array) in checkpoint order: matrices normal with variance 1 / inputs, norms 1, biases 0."""
    for row in parameter_table(spec):
        yield row.name, random_tensor(row, seed)


def random_tensor(row: Parameter, seed: int) -> NDArray[np.float32]:
    """Give the initial value of one parameter."""
    if row.name.endswith(".bias"):
        return np.zeros(row.shape, np.float32)
    if len(row.shape) == 1:
        return np.ones(row.shape, np.float32)
    # 1/sqrt(inputs) keeps the size of activations at any width. At the family's widths it is close to the 0.02 that
    # their configurations state (3584 inputs: 0.017); with 0.02, a model 64 wide hardly learns.
    scale = np.float32(1 / math.sqrt(math.prod(row.shape[1:])))
    return _generator(row, seed).standard_normal(row.shape, np.float32) * scale


def initial_factor(row: Parameter, seed: int) -> NDArray[np.float32]:
    """Give the initial value of an adapter's factor: A uniform within 1 / sqrt(inputs), B zero, as PEFT has it.

    That is its `kaiming_uniform_` with a = sqrt(5). LoRA (arXiv 2106.09685), section 4.1, has A normal.
    """
    if row.name.endswith(".lora_B.weight"):
        return np.zeros(row.shape, np.float32)
    bound = np.float32(1 / math.sqrt(row.shape[1]))
    return (2 * _generator(row, seed).random(row.shape, np.float32) - 1) * bound


def _generator(row: Parameter, seed: int) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}/{row.name}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
