"""Names a rank that computes much longer than the others, step after step."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence

from qvl_core.layout import Layout
from qvl_core.parallel.mesh import coordinate_of

SLOW = 1.5
"""How many times the median of its stage a rank has to take."""
STEPS = 20
"""For how many steps in a row."""


class Stragglers:
    """Compares ranks of the same pipeline stage, which have the same work: replicas and tensor slices.

    A stage of one rank has nobody to be compared with, and on Ascend the host's times are alike on all ranks.
    """

    def __init__(self, layout: Layout, hosts: Sequence[str]) -> None:
        """`hosts` are the ranks' machines, in rank order."""
        self._hosts = hosts
        self._stages: dict[int, list[int]] = defaultdict(list)
        for rank in range(layout.world_size):
            self._stages[coordinate_of(rank, layout).pp].append(rank)
        self._slow_steps = [0] * layout.world_size

    def see(self, compute_s: Sequence[float]) -> list[str]:
        """Take the ranks' computing times of a step; give a line for each rank found slow, once until it recovers."""
        lines = []
        for ranks in self._stages.values():
            # The lower one of an even number: of two ranks the faster one is the measure.
            usual = statistics.median_low(compute_s[rank] for rank in ranks)
            for rank in ranks:
                is_slow = compute_s[rank] > SLOW * usual
                self._slow_steps[rank] = self._slow_steps[rank] + 1 if is_slow else 0
                if self._slow_steps[rank] == STEPS:
                    lines.append(
                        f"rank {rank} on {self._hosts[rank]} is slow: {compute_s[rank]:.2f} s of computing in each of "
                        f"{STEPS} steps, {compute_s[rank] / usual:.1f} times what other ranks of its stage take"
                    )
        return lines
