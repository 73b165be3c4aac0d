"""Ways to lay vision layers on stages of their own: all of few; of many the fastest and the even ones that fit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from heapq import heapify, heappop, heapreplace

from qvl_core.planner.bounds import EQUAL, Prefix
from qvl_core.planner.capacity import Capacity
from qvl_core.planner.costs import StageCosts

# Up to so many vision layers every way to lay them on stages of their own is tried; beyond, the fastest and the even.
_FEW_LAYERS = 8


class VisionSpreads:
    """Lays the vision of one choice on stages."""

    def __init__(self, costs: StageCosts, depth: int) -> None:
        self._costs, self._depth = costs, depth

    def of(self, prefix: Prefix, capacity: Capacity) -> list[tuple[int, ...]]:
        """List ways to lay vision on a prefix's stages: all of few; else the fastest and even ones within memory."""
        pure, held = prefix.pure, self._depth - prefix.last
        tail = (prefix.last,) if prefix.last else ()
        if not pure:
            return [tail]
        if self._depth <= _FEW_LAYERS:
            return [(*spread, *tail) for spread in _compositions(held, pure)]
        alone, ending = capacity.vision, capacity.ending_vision
        highest = [*alone[: pure - 1], (alone if prefix.last else ending)[pure - 1]]
        if min(highest) < 1 or sum(highest) < held:
            return []
        parts = tuple(held // pure + (stage < held % pure) for stage in range(pure))
        spreads = {_moved(parts, highest), _moved(parts[::-1], highest), *self._fastest(held, highest, done=not tail)}
        return [(*spread, *tail) for spread in sorted(spreads, reverse=True)]

    def _fastest(self, held: int, highest: list[int], *, done: bool) -> Iterator[tuple[int, ...]]:
        """Yield vision on stages of its own so that the slowest is as fast as can be.

        Where a layer takes longer on the stage with the merger (frozen, but run again), also with fewer layers there.
        """
        found = self._leveled(held, highest, done=done)
        yield found
        if not done or not self._merger_slows:
            return
        for last in range(found[-1] - 1, 0, -1):
            lowered = [*highest[:-1], last]
            if sum(lowered) < held:
                return
            yield self._leveled(held, lowered, done=True)

    @cached_property
    def _merger_slows(self) -> bool:
        """Tell whether a layer of vision takes longer on the stage with the merger than on one before."""
        more = [
            self._costs.seconds(2, 0, 1, done=end)[0] - self._costs.seconds(1, 0, 1, done=end)[0]
            for end in (False, True)
        ]
        return more[1] > more[0] * (1 + EQUAL)

    def _leveled(self, held: int, highest: list[int], *, done: bool) -> tuple[int, ...]:
        """Lay vision layer by layer, each where it makes the least of a slowest stage."""
        counts, end = [1] * len(highest), len(highest) - 1

        def entry(stage: int) -> tuple[float, int]:
            more = self._costs.seconds(counts[stage] + 1, 0, min(stage, 1), done=done and stage == end)
            return more[1], stage

        least = [entry(stage) for stage in range(end + 1) if highest[stage] > 1]
        heapify(least)
        for _ in range(held - len(counts)):
            stage = least[0][1]
            counts[stage] += 1
            if counts[stage] < highest[stage]:
                heapreplace(least, entry(stage))
            else:
                heappop(least)
        return tuple(counts)


def _compositions(depth: int, stages: int) -> list[tuple[int, ...]]:
    """Give all ways to lay layers on stages, none of them empty."""
    if stages == 0:
        return [()] if depth == 0 else []
    return [
        (first, *rest) for first in range(1, depth - stages + 2) for rest in _compositions(depth - first, stages - 1)
    ]


def _moved(parts: tuple[int, ...], most: list[int]) -> tuple[int, ...]:
    """Move layers from stages that have too many to those with the most room, as far as there is any."""
    counts = list(parts)
    for stage in range(len(counts)):
        while counts[stage] > max(1, most[stage]):
            room = max(range(len(counts)), key=lambda one: most[one] - counts[one])
            if most[room] <= counts[room]:
                return tuple(counts)
            counts[stage] -= 1
            counts[room] += 1
    return tuple(counts)
