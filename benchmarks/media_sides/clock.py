"""Processor time of this process and of the processes that it started, per unit of work, side by side."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Side:
    """Something to be measured: a call that does `units` of work."""

    units: float
    call: Callable[[], object]


def rates(sides: Mapping[str, Side], *, rounds: int, seconds: float) -> dict[str, Any]:
    """Give units per second of processor time: median, least and most of the rounds, and the median by the wall clock.

    In each round the sides take turns, each for about `seconds`, so that a busy machine slows all of them.
    """
    for side in sides.values():
        side.call()
    by_processor: dict[str, list[float]] = {name: [] for name in sides}
    by_wall: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            processor, wall, done = _processor_s(), time.perf_counter(), 0
            # A child's time is counted in hundredths of a second, so short calls are repeated.
            while time.perf_counter() - wall < seconds or not done:
                side.call()
                done += 1
            by_processor[name].append(done * side.units / (_processor_s() - processor))
            by_wall[name].append(done * side.units / (time.perf_counter() - wall))
    return {
        name: {
            "per_processor_s": round(statistics.median(found), 1),
            "least": round(min(found), 1),
            "most": round(max(found), 1),
            "per_wall_s": round(statistics.median(by_wall[name]), 1),
        }
        for name, found in by_processor.items()
    }


def _processor_s() -> float:
    return time.process_time() + sum(_child_s(pid) for pid in _children())


def _children() -> list[str]:
    # A process belongs to the thread that started it.
    return [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]


def _child_s(pid: str) -> float:
    # Behind the name in brackets: user and system time are the 12th and 13th.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
