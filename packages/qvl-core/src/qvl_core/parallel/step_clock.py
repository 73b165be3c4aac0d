"""Where the time of a step goes on one rank: the parts add up to the whole, whatever happens in between.

Whoever starts another kind of work says so with `switch`; the time since the last switch goes to the kind before. What
the world's calls took of it (`Times`) is taken out and counted as communication and waiting.

Times are those of the host. On CPU operations are launched one after the other and the split is exact. On Ascend the
host runs ahead of the device: work counts where the host next waits for a result. Nothing here makes it wait.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["data", "forward", "backward", "stages", "communication", "optimizer", "other"]
"""`stages` is sending to and receiving from pipeline neighbours, `communication` the sums of gradients and numbers."""


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    """Seconds of one rank in one step. All but the last two add up to the step's time.

    `pipeline_s` is the whole time between the first forward and the last backward, `stages_s` the part of it that
    went by sending to and receiving from other stages. Both are counted in the other fields already.
    """

    data_s: float
    forward_s: float
    backward_s: float
    communication_s: float
    waiting_s: float
    optimizer_s: float
    other_s: float
    stages_s: float
    pipeline_s: float

    @property
    def compute_s(self) -> float:
        """Give all that is neither communication nor waiting."""
        return self.data_s + self.forward_s + self.backward_s + self.optimizer_s + self.other_s

    @property
    def total_s(self) -> float:
        """Give the step's time."""
        return self.compute_s + self.communication_s + self.waiting_s


class Spent(Protocol):
    """Seconds that communication took so far: `world.Times`."""

    communication_s: float
    waiting_s: float


class Clock(Protocol):
    """What the pipeline and the step tell."""

    def switch(self, kind: Kind) -> Kind:
        """Say what begins now; give what ends."""
        ...


class SilentClock:
    """A clock that nobody reads."""

    def switch(self, kind: Kind) -> Kind:
        """Do nothing."""
        return kind


class StepClock:
    """A rank's clock, started when it is made."""

    def __init__(self, times: Spent) -> None:
        self._times = times
        self._is_paused = False
        self._kind: Kind = "other"
        self._restart()

    def switch(self, kind: Kind) -> Kind:
        """Count the time since the last switch; `kind` begins now. Without effect while paused."""
        ended = self._kind
        if not self._is_paused:
            self._count()
            self._kind = kind
        return ended

    def take(self) -> StepTimes:
        """Give what was counted since the last call, and begin anew."""
        assert not self._is_paused, "a step ends before validation or saving begins"
        self._count()
        net, gross = self._net, self._gross
        found = StepTimes(
            data_s=net["data"],
            forward_s=net["forward"],
            backward_s=net["backward"],
            communication_s=self._communication_s + net["communication"] + net["stages"],
            waiting_s=self._waiting_s,
            optimizer_s=net["optimizer"],
            other_s=net["other"],
            stages_s=gross["stages"],
            pipeline_s=gross["forward"] + gross["backward"] + gross["stages"],
        )
        self._restart()
        return found

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing inside: what is done there belongs to no step."""
        self._count()
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False
            self._last = self._now()

    def _count(self) -> None:
        now = self._now()
        passed, communication_s, waiting_s = (new - old for new, old in zip(now, self._last, strict=True))
        self._last = now
        self._gross[self._kind] += passed
        self._net[self._kind] += passed - communication_s - waiting_s
        self._communication_s += communication_s
        self._waiting_s += waiting_s

    def _restart(self) -> None:
        kinds: tuple[Kind, ...] = ("data", "forward", "backward", "stages", "communication", "optimizer", "other")
        self._net = dict.fromkeys(kinds, 0.0)
        self._gross = dict.fromkeys(kinds, 0.0)
        self._communication_s = self._waiting_s = 0.0
        self._last = self._now()

    def _now(self) -> tuple[float, float, float]:
        return time.perf_counter(), self._times.communication_s, self._times.waiting_s
