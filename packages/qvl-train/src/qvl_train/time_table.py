"""The table at the end of a run: where its time went."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from qvl_core.parallel.step_clock import StepClock

from qvl_train.meter import PARTS
from qvl_train.progress import format_duration

NAMES = {"communication_s": "communication", "waiting_s": "waiting for others", "other_s": "other, logging too"}


class TimeTable:
    """Adds up the rows of steps and what was done between them."""

    def __init__(self) -> None:
        self._rows: list[dict[str, float]] = []
        self._between: dict[str, float] = {}
        self._tokens = self._tflops = 0.0

    def add(self, row: Mapping[str, float | int]) -> None:
        """Take a step's numbers."""
        self._rows.append({key: float(row[key]) for key in ("step_time_s", *PARTS)})
        self._tokens += row["tokens"]
        self._tflops += row["model_tflops_text"] + row["model_tflops_vision"]

    @contextmanager
    def between(self, name: str, clock: StepClock) -> Iterator[None]:
        """Count what is done inside under a name of its own and not to a step."""
        started = time.perf_counter()
        with clock.paused():
            yield
        self._between[name] = self._between.get(name, 0.0) + time.perf_counter() - started

    def lines(self) -> list[str]:
        """Give the table as lines of less than 80 columns; nothing where no step was taken."""
        if not self._rows:
            return []
        steps = len(self._rows)
        spent = {NAMES.get(key, key.removesuffix("_s")): sum(row[key] for row in self._rows) for key in PARTS}
        steps_s = sum(spent.values())
        spent |= self._between
        total = sum(spent.values())
        median = statistics.median(row["step_time_s"] for row in self._rows)
        rates = f"{self._tokens / steps_s:,.0f} tokens/s, {_rate(self._tflops / steps_s)}"
        lines = [
            f"{steps:,} steps in {format_duration(total)}, median {median:.3g} s a step, {rates}",
            f"  {'where the time went':<22}{'total':>10}{'share':>9}{'mean of a step':>17}",
        ]
        for name, seconds in spent.items():
            if seconds < 0.0005 * total:
                continue
            mean = "" if name in self._between else f"{seconds / steps:>15.3f} s"
            lines.append(f"  {name:<22}{_duration(seconds):>10}{seconds / total:>9.1%}{mean}")
        return lines


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else format_duration(seconds)


def _rate(tflops: float) -> str:
    return f"{tflops:,.1f} TFLOP/s" if tflops >= 1 else f"{1000 * tflops:,.1f} GFLOP/s"
