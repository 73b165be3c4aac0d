"""The rules by which a rank counts as dead, stopped, hung or deadlocked. Pure: looks and a clock in, verdicts out.

A rank that waits for others is never hung itself: whom it waits for is. Times are CLOCK_MONOTONIC, so a changed wall
clock means nothing; and when the launcher itself was stopped or starved, all ages count from when it was back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["dead", "stopped", "hung", "deadlocked", "absent"]

# Stopped by a signal. Lower case t, stopped by a debugger, is somebody's intention.
STOPPED = "T"
# Waiting for storage, or running and without a core: slow, but not idle.
_BUSY = "DR"


@dataclass(frozen=True, kw_only=True)
class Vitals:
    """A living process: its state in /proc, CPU seconds of it and its children, and bytes to and from storage."""

    state: str
    cpu_s: float
    disk_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is seen of a rank at one moment. `vitals` is None where there is no such process (any more).

    `process` is 0 as long as the rank has not said anything. `longest_s` is the longest time that this kind of work
    took before, None the first time; `waits` counts the times that it has waited and gone on.
    """

    rank: int
    process: int
    counter: int
    marked_at: float
    longest_s: float | None
    waits: int
    waiting: bool
    done: bool
    state: str
    vitals: Vitals | None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long what may last, seconds."""

    # Stopped by a signal, such as Ctrl-Z at the wrong terminal.
    stopped_s: float = 8.0
    # Without a mark: this much at least, and `factor` times the longest time that this kind of work took before.
    quiet_s: float = 15.0
    factor: float = 10.0
    # The first time that a kind of work is done: loading, compiling.
    first_s: float = 300.0
    # Doing nothing at all: less CPU time than `idle_cpu_s` in this time, nothing read or written.
    idle_s: float = 15.0
    idle_cpu_s: float = 0.2
    # All ranks waiting for each other.
    deadlock_s: float = 15.0
    # Until every rank has said its first word.
    absent_s: float = 120.0
    # A longer time between two looks says that the launcher was not running.
    asleep_s: float = 5.0


CPU_LIMITS = Limits()
# Not verified on a device. The host has little to do while the device computes or compiles, so more time has to pass.
ASCEND_LIMITS = Limits(quiet_s=60.0, first_s=1800.0, idle_s=120.0, deadlock_s=120.0, absent_s=600.0)
# Ranks of other machines may be computing while all of this one wait. HCCL's own limit ends a dead wait.
SEVERAL_MACHINES_DEADLOCK_S = 1800.0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Something is wrong with a rank, or with all of them (`rank` is None). `lasted_s` is how long it has been so."""

    kind: Kind
    rank: int | None
    lasted_s: float
    look: Look | None = None


@dataclass(kw_only=True)
class _Track:
    """What the watch remembers of a rank."""

    seen: Look
    seen_alive_at: float
    disk_bytes: int = 0
    disk_at: float = 0.0
    stopped_since: float | None = None
    idle_since: float
    idle_vitals: Vitals | None = None


class Watch:
    """Looks at the ranks again and again; remembers since when what was so."""

    def __init__(self, limits: Limits, started_at: float) -> None:
        self._limits = limits
        self._started_at = started_at
        self._looked_at = started_at
        # Nothing that happened before counts: then the launcher was not looking.
        self._awake_since = started_at
        self._tracks: dict[int, _Track] = {}

    def look(self, now: float, looks: Sequence[Look]) -> tuple[Verdict, ...]:
        """Take in what is seen now; give what is wrong, the gravest first."""
        if now - self._looked_at > self._limits.asleep_s:
            self._awake_since = now
            for track in self._tracks.values():
                track.stopped_since, track.idle_vitals = None, None
        self._looked_at = now
        for look in looks:
            self._remember(now, look)
        at_work = [look for look in looks if not look.done]
        found = [*self._dead(now, at_work)]
        found += self._stopped(now, at_work)
        found += self._hung(now, at_work)
        found += self._deadlocked(now, at_work)
        found += self._absent(now, at_work)
        return tuple(found)

    def last_seen_alive(self, rank: int) -> float:
        """Give the last moment at which the rank's process was there."""
        return self._tracks[rank].seen_alive_at

    def _remember(self, now: float, look: Look) -> None:
        track = self._tracks.get(look.rank)
        if track is None:
            self._tracks[look.rank] = _Track(seen=look, seen_alive_at=now, idle_since=now)
            return
        if look.counter != track.seen.counter:
            track.idle_vitals = None
        if look.vitals is not None:
            track.seen_alive_at = now
            if look.vitals.disk_bytes != track.disk_bytes:
                track.disk_bytes, track.disk_at = look.vitals.disk_bytes, now
        track.seen = look

    def _dead(self, now: float, looks: Iterable[Look]) -> Iterator[Verdict]:
        for look in looks:
            if look.process and look.vitals is None:
                lasted = now - self._tracks[look.rank].seen_alive_at
                yield Verdict(kind="dead", rank=look.rank, lasted_s=lasted, look=look)

    def _stopped(self, now: float, looks: Iterable[Look]) -> Iterator[Verdict]:
        for look in looks:
            track = self._tracks[look.rank]
            if look.vitals is None or look.vitals.state != STOPPED:
                track.stopped_since = None
                continue
            if track.stopped_since is None:
                track.stopped_since = now
            if (lasted := now - track.stopped_since) > self._limits.stopped_s:
                yield Verdict(kind="stopped", rank=look.rank, lasted_s=lasted, look=look)

    def _hung(self, now: float, looks: Iterable[Look]) -> Iterator[Verdict]:
        for look in looks:
            if not look.process or look.vitals is None or look.waiting:
                continue
            # Reading or writing a file of many gigabytes has no marks in between, and moves all the same.
            lasted = min(self._quiet(now, look), now - self._tracks[look.rank].disk_at)
            idle = self._idle(now, look, look.vitals)
            if lasted > self._quiet_limit(look) or min(lasted, idle) > self._limits.idle_s:
                yield Verdict(kind="hung", rank=look.rank, lasted_s=lasted, look=look)

    def _quiet_limit(self, look: Look) -> float:
        if look.longest_s is None:
            return self._limits.first_s
        return max(self._limits.quiet_s, self._limits.factor * look.longest_s)

    def _idle(self, now: float, look: Look, vitals: Vitals) -> float:
        """Give how long the rank has used no CPU time and no storage."""
        track = self._tracks[look.rank]
        before = track.idle_vitals
        if (
            before is None
            or vitals.state in _BUSY
            or vitals.cpu_s - before.cpu_s > self._limits.idle_cpu_s
            or vitals.disk_bytes != before.disk_bytes
        ):
            track.idle_vitals, track.idle_since = vitals, now
        return now - track.idle_since

    def _deadlocked(self, now: float, looks: Sequence[Look]) -> Iterator[Verdict]:
        if not looks or not all(look.process and look.waiting and look.vitals is not None for look in looks):
            return
        lasted = min(self._quiet(now, look) for look in looks)
        # The first wait is the meeting at the start, which takes as long as the slowest needs to get there.
        met = all(look.waits for look in looks)
        if lasted > (self._limits.deadlock_s if met else self._limits.first_s):
            yield Verdict(kind="deadlocked", rank=None, lasted_s=lasted)

    def _absent(self, now: float, looks: Sequence[Look]) -> Iterator[Verdict]:
        absent = [look for look in looks if not look.process]
        lasted = now - max(self._started_at, self._awake_since)
        if absent and lasted > self._limits.absent_s:
            yield Verdict(kind="absent", rank=absent[0].rank, lasted_s=lasted, look=absent[0])

    def _quiet(self, now: float, look: Look) -> float:
        return now - max(look.marked_at, self._awake_since)


def limits_for(device: str, nodes: int) -> Limits:
    """Give the limits of a device ("cpu" or "ascend") and a number of machines."""
    limits = CPU_LIMITS if device == "cpu" else ASCEND_LIMITS
    return limits if nodes == 1 else replace(limits, deadlock_s=SEVERAL_MACHINES_DEADLOCK_S)
