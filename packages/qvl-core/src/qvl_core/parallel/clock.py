"""A simulated clock for a pipeline: when each stage runs what, and how long it stands idle. Pure arithmetic.

Each stage works through its 1F1B order. It starts a forward when the activation of the stage before has arrived, a
backward when the gradient of the stage after has; sending takes time on the way, not on the stage.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from qvl_core.parallel.schedule import Action, Kind, one_f_one_b


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    """How long a stage works on each micro batch, in any one unit.

    `backward` is empty for a stage without a backward: nothing trains on it nor on a stage before it.
    """

    forward: tuple[float, ...]
    backward: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """One action on the clock."""

    action: Action
    start: float
    end: float


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """What each stage does when, in order. The clock starts at 0."""

    stages: tuple[tuple[Interval, ...], ...]

    @property
    def makespan(self) -> float:
        """Give the time at which the last stage is done."""
        return max(intervals[-1].end for intervals in self.stages)

    def busy(self, stage: int) -> float:
        """Give the time that a stage works."""
        return sum(interval.end - interval.start for interval in self.stages[stage])

    @property
    def bubble(self) -> float:
        """Give the idle part of all stages' time, 0 to 1."""
        total = len(self.stages) * self.makespan
        return 1.0 - sum(map(self.busy, range(len(self.stages)))) / total if total else 0.0


def simulate(times: Sequence[StageTimes], transfer: Sequence[float] = ()) -> Timeline:
    """Run one step. `transfer` has the time between each two neighbouring stages, either way; left out, it is 0.

    Raises ValueError if the stages disagree on the number of micro batches, or a stage after one with a backward has
    none: gradients come from behind.
    """
    micro_batches = _checked(times, transfer)
    stages = len(times)
    transfer = transfer or (0.0,) * (stages - 1)
    waiting = [_order(stage, times, micro_batches) for stage in range(stages)]
    done: list[list[Interval]] = [[] for _ in times]
    ends: dict[tuple[Kind, int, int], float] = {}
    while any(waiting):
        ran = 0
        for stage, queue in enumerate(waiting):
            while queue:
                arrival = _arrival(queue[0], stage, stages, ends, transfer)
                if arrival is None:
                    break
                action = queue.popleft()
                start = max(arrival, done[stage][-1].end if done[stage] else 0.0)
                length = getattr(times[stage], action.kind)[action.micro_batch]
                done[stage].append(Interval(action=action, start=start, end=start + length))
                ends[action.kind, stage, action.micro_batch] = start + length
                ran += 1
        assert ran, "1F1B with sends that do not wait has no deadlock"
    return Timeline(stages=tuple(map(tuple, done)))


def ideal_bubble(stages: int, micro_batches: int) -> float:
    """Give the idle part of balanced stages: (p - 1) / (m + p - 1).

    Megatron-LM (arXiv 2104.04473), section 2.2.1, states the same idle time against the time without it, (p - 1) / m.
    """
    return (stages - 1) / (micro_batches + stages - 1)


def shortest_makespan(times: Sequence[StageTimes], transfer: Sequence[float] = ()) -> float:
    """Give a time that no order of work on these stages can beat: that of the stage which needs longest.

    A stage starts when the fastest micro batch has come through the stages before it, has to do all its work, and the
    stages before it have then still a backward to do. With balanced stages 1F1B takes exactly this long.
    """
    _checked(times, transfer)
    transfer = transfer or (0.0,) * (len(times) - 1)
    longest = before = 0.0
    for stage, stage_times in enumerate(times):
        longest = max(longest, before + sum(stage_times.forward) + sum(stage_times.backward))
        before += min(stage_times.forward) + min(stage_times.backward, default=0.0)
        if stage < len(transfer):
            before += transfer[stage] * (2 if stage_times.backward else 1)
    return longest


def shortest_bubble(times: Sequence[StageTimes], transfer: Sequence[float] = ()) -> float:
    """Give the idle part that goes with `shortest_makespan`: what these stages lose even in the best order."""
    work = sum(sum(stage.forward) + sum(stage.backward) for stage in times)
    total = len(times) * shortest_makespan(times, transfer)
    return 1.0 - work / total if total else 0.0


def _checked(times: Sequence[StageTimes], transfer: Sequence[float]) -> int:
    """Give the number of micro batches."""
    counts = {len(stage.forward) for stage in times} | {len(stage.backward) for stage in times if stage.backward}
    if len(counts) != 1:
        raise ValueError(f"every stage needs a time for every micro batch; these have {sorted(counts)}")
    if transfer and len(transfer) != len(times) - 1:
        raise ValueError(f"{len(times)} stages have {len(times) - 1} borders, not {len(transfer)}")
    backwards = [bool(stage.backward) for stage in times]
    if backwards != sorted(backwards):
        raise ValueError("a stage with a backward needs one on every stage after it")
    return counts.pop()


def _order(stage: int, times: Sequence[StageTimes], micro_batches: int) -> deque[Action]:
    """List a stage's actions. Without a backward a stage only runs ahead."""
    order = one_f_one_b(stage, len(times), micro_batches)
    return deque(action for action in order if action.kind == "forward" or times[stage].backward)


def _arrival(
    action: Action, stage: int, stages: int, ends: dict[tuple[Kind, int, int], float], transfer: Sequence[float]
) -> float | None:
    """Give the time at which what an action needs from its neighbour is there; None if it is not known yet."""
    source, border = (stage - 1, stage - 1) if action.kind == "forward" else (stage + 1, stage)
    if not 0 <= source < stages:
        return 0.0
    end = ends.get((action.kind, source, action.micro_batch))
    return None if end is None else end + transfer[border]
