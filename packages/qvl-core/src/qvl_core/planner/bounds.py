"""Seconds that no split of one choice beats, whatever its memory: of a step, and of each way that vision may lie.

Vision comes first, so a split begins with stages of vision alone, and the last vision layers may share a stage with
text. Layers of a component cost the same: stages are lines in their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import ceil

from qvl_core.planner.costs import StageCosts
from qvl_core.planner.dealing import LeastSeconds, Place
from qvl_core.planner.job import Job

# Seconds that differ by less, relatively, are equal.
EQUAL = 1e-10


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """Stages of vision alone, `pure` of them, and the vision layers of the next, on which text begins."""

    pure: int
    last: int


class StepBounds:
    """Gives the bounds of one choice, with the prefixes of vision that there are and the places for text."""

    def __init__(self, job: Job, costs: StageCosts, pp: int) -> None:
        self._job, self._costs, self._pp, self._end = job, costs, pp, pp - 1
        self._depth, self._layers = job.spec.vision.depth, job.spec.text.num_layers

    def least_step(self) -> float:
        """Give a time that no split can beat, whatever its memory: the best of what the last stage may hold."""
        layers, others, more = self._layers, self._end, self._costs.micro_batches - 1
        # Of one micro batch through all stages; the last stage runs nothing twice.
        once, end = self._costs.whole
        # The stages' means are never more than the slowest of them.
        end = (end - more * once) / self._pp
        if not others:
            return (more + 1) * once + end
        ahead, back = self._costs.times.text_layer
        layer = ahead.total + back.total
        again = ahead.total if back.total and self._job.engine.tape else 0.0
        base = once + others * self._costs.times.hand_over

        def step(last: int) -> float:
            total = base + (layers - last) * again
            crowded = ceil((layers - last) / others) * (layer + again)
            return total + more * max(total / self._pp, last * layer, crowded)

        # Only what the last stage itself takes grows with its layers.
        low, high = 1, layers
        while low < high:
            middle = (low + high) // 2
            crowded = ceil((layers - middle) / others) * (layer + again)
            if middle * layer >= max((base + (layers - middle) * again) / self._pp, crowded):
                high = middle
            else:
                low = middle + 1
        return min(step(last) for last in (max(1, low - 1), low, layers)) + end

    @cached_property
    def prefixes(self) -> list[tuple[int, range]]:
        """List numbers of stages with vision alone, with the vision layers that the next stage may have."""
        depth, layers, pp = self._depth, self._layers, self._pp
        found = []
        if self._job.task != "train":
            if layers >= pp:
                found.append((0, range(depth, depth + 1)))
            if pp > 1 and layers >= pp - 1:
                found.append((1, range(0, 1)))
            return found
        for pure in range(max(0, pp - layers), min(depth, pp - 1) + 1):
            found.append((pure, range(0 if pure else depth, depth - pure + 1)))
        return found

    @cached_property
    def bounded(self) -> list[tuple[float, Prefix]]:
        """List the prefixes with a time that none of their splits can beat, whatever its memory; fastest first."""
        found = [pair for pure, lasts in self.prefixes for pair in self._bounds(pure, lasts)]
        return sorted(found, key=lambda pair: pair[0])

    def _bounds(self, pure: int, lasts: range) -> Iterator[tuple[float, Prefix]]:
        """Yield the bounds of prefixes with so many stages of vision alone."""
        if pure == self._end:
            for last in lasts:
                spent, worst = self._of_vision(pure, last)
                time, value = self._costs.seconds(last, self._layers, pure, embeds=True)
                yield spent + time + max(worst, value), Prefix(pure=pure, last=last)
            return
        # A layer of vision more adds the same to each place that has some.
        none, one, two = (self.begin_place(count, pure) for count in (0, 1, 2))
        least = LeastSeconds(one, self.inner_place, self.end_place, self._end - pure, self._layers)
        more_time, more_value = two.time - one.time, two.value - one.value
        for last in lasts:
            spent, worst = self._of_vision(pure, last)
            time = one.time + (last - 1) * more_time if last else none.time
            value = one.value + (last - 1) * more_value if last else none.value
            yield spent + least.of(time, value, worst), Prefix(pure=pure, last=last)

    def _of_vision(self, pure: int, last: int) -> tuple[float, float]:
        """Give what stages of vision alone take for a micro batch, however they share it, and the least of the worst.

        One has as many layers as the mean, at least; the first of several does without what the others are handed.
        """
        held = self._depth - last
        if not pure:
            return 0.0, 0.0
        if pure == 1:
            return self._costs.seconds(held, 0, 0, done=last == 0)
        first, ending, more, by_layers = self._several
        usual = by_layers[1][2]
        time = first + (pure - 2) * usual + (usual if last else ending) + (held - pure) * more
        return time, min(by_layers[ceil(held / pure)][:2])

    @cached_property
    def _several(self) -> tuple[float, float, float, list[tuple[float, float, float]]]:
        """Give seconds of several stages of vision alone: the first with one layer, the last with one, a layer more.

        And by layers the values of a first stage and of another, and the seconds of the latter.
        """
        first, _ = self._costs.seconds(1, 0, 0, done=False)
        one, two = (self._costs.seconds(count, 0, 1, done=False)[0] for count in (1, 2))
        ending, _ = self._costs.seconds(1, 0, 1, done=True)
        by_layers = [(0.0, 0.0, 0.0)]
        for count in range(1, self._depth + 1):
            time, value = self._costs.seconds(count, 0, 1, done=False)
            by_layers.append((self._costs.seconds(count, 0, 0, done=False)[1], value, time))
        return first, ending, two - one, by_layers

    def begin_place(self, vision: int, stage: int, most: int | None = None) -> Place:
        """Give the stage on which text begins, beside so many vision layers."""
        return self._line(
            lambda count: self._costs.seconds(vision, count, stage, embeds=True),
            self._layers - (self._end - stage) if most is None else most,
        )

    @cached_property
    def inner_place(self) -> Place:
        """Give a stage with text alone that is neither the first nor the last."""
        return self._line(lambda count: self._costs.seconds(0, count, 1 if self._end > 1 else 0), self._layers)

    @cached_property
    def end_place(self) -> Place:
        """Give the last stage, with text alone."""
        return self._line(lambda count: self._costs.seconds(0, count, self._end), self._layers)

    def _line(self, seconds: Callable[[int], tuple[float, float]], most: int) -> Place:
        (time, value), (time_2, value_2) = seconds(1), seconds(2)
        return Place(most=most, time=time, more_time=time_2 - time, value=value, more_value=value_2 - value)
