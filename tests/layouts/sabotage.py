"""Worlds and gradients that are wrong on purpose: a comparison that does not notice them would notice nothing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import Any

from cases import Case
from qvl_core.params import EMBEDDING

# How much a gradient is changed: ten times what is allowed.
_CHANGE = 1e-4
NUMBERS = ("tensor_sum", "data_sum", "tied_sum", "factor_sum", "gradient", "missing")
ENDS = ("raise", "crash", "hang")


class DeafGroup:
    """A group whose sums are this rank's own part: nobody is heard."""

    def __init__(self, group: Any) -> None:
        self._group = group
        self.ranks, self.index, self.size = group.ranks, group.index, group.size

    def sum(self, x: Any) -> Any:
        """Give the input."""
        return x

    def sum_many(self, tensors: Sequence[Any]) -> list[Any]:
        """Give the inputs."""
        return list(tensors)

    def scatter_sum(self, x: Any) -> Any:
        """Give this rank's block of the input."""
        length = x.shape[0] // self.size
        return x[self.index * length : (self.index + 1) * length]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._group, name)


class FirstCountsGroup(DeafGroup):
    """A tensor group in whose sums of gradients only the first rank counts, as if those of factors were whole."""

    def sum_many(self, tensors: Sequence[Any]) -> list[Any]:
        """Give the sums without what other ranks have."""
        return list(self._group.sum_many([x if self.index == 0 else x * 0.0 for x in tensors]))

    def sum(self, x: Any) -> Any:
        """Give the sum."""
        return self._group.sum(x)


def spoil_world(world: Any, case: Case) -> None:
    """Make one group deaf, or end this rank in some way."""
    if case.broken == "factor_sum":
        world.tensor = FirstCountsGroup(world.tensor)
    for name in ("tensor", "data", "tied"):
        if case.broken == f"{name}_sum" and getattr(world, name) is not None:
            setattr(world, name, DeafGroup(getattr(world, name)))
    if case.broken in ENDS and world.rank == case.world_size - 1:
        end(case.broken)


def spoil_gradients(gradients: Sequence[Any], names: Sequence[str], case: Case, world: Any) -> list[Any]:
    """Change one gradient a little, or lose one."""
    spoiled = list(gradients)
    if case.broken == "gradient" and world.rank == 0:
        spoiled[-1] = spoiled[-1] * (1 + _CHANGE)
    if case.broken == "missing" and EMBEDDING in names:
        spoiled[names.index(EMBEDDING)] = spoiled[names.index(EMBEDDING)] * 0.0
    return spoiled


def end(how: str) -> None:
    """End, or stop, this process in one of the ways of `ENDS`."""
    if how == "raise":
        raise ValueError("broken on purpose")
    if how == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(3600)
