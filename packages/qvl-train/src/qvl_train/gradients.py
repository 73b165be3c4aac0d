"""Gradients that lie on several ranks: copies made equal, the norm with every element counted once, clipping."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mindspore import Tensor, ops
from qvl_core import kernels
from qvl_core.params import EMBEDDING, Parameter

if TYPE_CHECKING:
    from qvl_core.parallel.world import World


class CopySums:
    """Makes the gradients of a parameter's copies one and the same.

    A tied embedding lies on two stages, each with the gradient of its own use: they are added. A replicated parameter
    lies on every tensor rank, with the same gradient up to rounding: that of the first counts, or norms and biases
    would drift apart by bits wherever a sum's order is not fixed. Where each tensor rank has a summand of it
    (`partial_gradient`: factors of adapters), all of them count.
    """

    def __init__(self, world: World, rows: Sequence[Parameter]) -> None:
        self._world = world
        self._tied = next((i for i, row in enumerate(rows) if row.name == EMBEDDING and world.tied is not None), None)
        alike = [i for i, row in enumerate(rows) if row.shard == "replicate"]
        self._alike = alike if world.tensor.size > 1 else []
        self._counts_here = [row.partial_gradient or world.tensor.index == 0 for row in rows]

    def __call__(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Give the gradients, in the same order, equal to the bit on all ranks that hold a copy.

        They have been summed over the replicas: that comes first, for its order of addition may depend on where in a
        message an element stands, and that is not the same on the two stages.
        """
        result = list(gradients)
        if self._tied is not None:
            assert self._world.tied is not None
            result[self._tied] = self._world.tied.sum(result[self._tied])
        if self._alike:
            own = [result[i] if self._counts_here[i] else ops.zeros_like(result[i]) for i in self._alike]
            for i, total in zip(self._alike, self._world.tensor.sum_many(own), strict=True):
                result[i] = total
        return result


def is_counted(row: Parameter, world: World) -> bool:
    """Tell whether this rank counts its part of a parameter, and not another rank that holds the same elements."""
    if row.shard == "replicate" and world.place.tp != 0:
        return False
    return world.place.pp == row.stages[0]


def sum_of_squares(gradients: Sequence[Tensor]) -> float:
    """Give the sum of squares of all elements; NaN or infinity where any of them is not finite."""
    return kernels.sum_of_squares(gradients)


def norm_of(squares: Sequence[float]) -> float:
    """Give the norm from every rank's sum of squares, added in rank order, so that all ranks get the same bits."""
    return math.sqrt(sum(squares))


def clip_scale(norm: float, limit: float) -> float:
    """Give the factor that brings `norm` to at most `limit`; `limit` 0 switches clipping off.

    Pascanu et al. (arXiv 1211.5063), algorithm 1. The small constant is the one of `torch.nn.utils.clip_grad_norm_`.
    """
    if limit == 0.0 or norm <= limit:
        return 1.0
    return limit / (norm + 1e-6)
