"""The best stage lists for one tp, pp, dp, micro batch and recomputation within a memory: exact, without trying all.

Vision comes first, so a split is a prefix of stages with vision, the last of which may begin with text, and stages with
text alone. All layers of a component cost the same, in bytes and in seconds; so for each vision prefix the text is
dealt by thresholds (`dealing`). Prefixes are looked at in the order of a bound that ignores memory.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from heapq import heapify, heappop, heapreplace
from math import ceil, inf

from qvl_core.planner.capacity import Capacity, most
from qvl_core.planner.costs import Choice, SharedCosts, StageCosts
from qvl_core.planner.dealing import Deal, LeastSeconds, Place, best_deal, dealt

# Up to so many vision layers every way to lay them on stages of their own is tried; beyond, the fastest and the even.
_FEW_LAYERS = 8
# Seconds that differ by less, relatively, are equal; of prefixes that are as fast so many are looked at.
_EQUAL = 1e-10
_MOST_TIES = 4


@dataclass(frozen=True, kw_only=True)
class Split:
    """Stage lists, and the seconds of a step with them."""

    vision: tuple[int, ...]
    text: tuple[int, ...]
    step_s: float


@dataclass(frozen=True, kw_only=True)
class _Prefix:
    """Stages of vision alone, `pure` of them, and the vision layers of the next, on which text begins."""

    pure: int
    last: int


class LeastMemory:
    """Gives bytes that no split is under, for any tp, pp and dp, whatever is recomputed.

    The fullest stage holds its part of the model; activations are left out.
    """

    def __init__(self, shared: SharedCosts, micro_batch: int) -> None:
        self._shared, self._micro_batch = shared, micro_batch

    def of(self, tp: int, pp: int, dp: int) -> float:
        """Give bytes that the fullest rank takes at least."""
        choice = Choice(
            tp=tp,
            pp=pp,
            dp=dp,
            micro_batch=self._micro_batch,
            recompute=frozenset(),
            zero1=self._shared.job.task == "train" and dp > 1,
        )
        communicators = 1 + (tp > 1) + (pp > 1) + (dp > 1)
        return self._shared.memory(choice).least_bytes(self._shared.whole, pp, communicators)

    def fewest_stages(self, tp: int, dp: int, most: int, limit: float) -> int:
        """Give the fewest stages, up to `most`, with which that stays within `limit`; one more than that if none do."""
        if self.of(tp, 1, dp) <= limit:
            return 1
        return bisect_left(range(2, most + 1), True, key=lambda pp: self.of(tp, pp, dp) <= limit) + 2


class SplitSearch:
    """Finds splits for one choice of tp, pp, dp, micro batch and recomputation."""

    def __init__(self, shared: SharedCosts, choice: Choice) -> None:
        self._job, self._choice, self._pp = shared.job, choice, choice.pp
        self._costs = StageCosts(shared, choice)
        self._depth, self._layers = shared.job.spec.vision.depth, shared.job.spec.text.num_layers
        self._end = choice.pp - 1
        self._trains, self._whole = shared.job.task == "train", shared.whole
        self._capacity: Capacity | None = None

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

    def least_memory(self) -> float:
        """Give bytes that the fullest rank takes at least, whatever the split."""
        return self._costs.memory.least_bytes(self._whole, self._pp, self._costs.communicators)

    def least_bytes(self, below: float = inf) -> tuple[float, Split] | None:
        """Give the least memory in which a split exists, to 0.1 %, and a split; None where it is not under `below`."""
        low, high = self.least_memory(), below
        if high == inf:
            high = low
            while not self.fits(high):
                # No recomputation, and all layers on one rank, take no more than this.
                if high > 1e6 * low:
                    return None
                high *= 2
        elif not self.fits(high):
            return None
        while high - low > 1e-3 * high:
            middle = (low + high) / 2
            low, high = (low, middle) if self.fits(middle) else (middle, high)
        split = self.best(high)
        return (max(self.stage_bytes(split)), split) if split is not None else None

    def stage_bytes(self, split: Split) -> list[float]:
        """Give the bytes of a rank of each stage of a split."""
        begins = next(stage for stage, count in enumerate(split.text) if count)
        ends = max((stage for stage, count in enumerate(split.vision) if count), default=0)
        return [
            self._costs.size(vision, text, stage, embeds=stage == begins, done=stage >= ends)
            for stage, (vision, text) in enumerate(zip(split.vision, split.text, strict=True))
        ]

    def fits(self, limit: float) -> bool:
        """Tell whether there is a split whose ranks stay within `limit` bytes; exact, and quicker than the best."""
        if self.least_memory() > limit:
            return False
        return any(self._has_room(pure, lasts, limit) for pure, lasts in self._prefixes)

    def _has_room(self, pure: int, lasts: range, limit: float) -> bool:
        """Tell whether text fits behind so many stages of vision alone, with one of `lasts` where text begins.

        The fewer vision layers are left to the stage on which text begins, the more fits there.
        """
        least = max(1, self._at(limit).text_left(pure))
        if least > self._layers - (self._end - pure):
            return False
        last = self._least_last(pure, lasts, limit)
        return last is not None and self._costs.size(last, least, pure, embeds=True) <= limit

    def _least_last(self, pure: int, lasts: range, limit: float) -> int | None:
        """Give the fewest vision layers that stages of vision alone leave to the next; None where they hold none."""
        if not pure:
            return lasts[0]
        alone, ending = self._at(limit).vision, self._at(limit).ending_vision
        if (
            0 in lasts
            and min(*alone[: pure - 1], ending[pure - 1], 1)
            and sum(alone[: pure - 1]) + ending[pure - 1] >= self._depth
        ):
            return 0
        last = max(1, self._depth - sum(alone[:pure]))
        return last if last in lasts and min(alone[:pure]) else None

    def leanest(self, limit: float, most_s: float = inf) -> Split | None:
        """Give the same as `best`, but of splits that are as fast the one that takes least, to 1 %.

        Where answers are given all splits of text are nearly as fast: one after the other, stages wait for each other.
        """
        found = self.best(limit, most_s)
        if found is None or self._trains or not self._end:
            return found
        low, high = self.least_memory(), max(self.stage_bytes(found))
        while high - low > 1e-2 * high:
            middle = (low + high) / 2
            leaner = self.best(middle, found.step_s * (1 + _EQUAL))
            if leaner is None:
                low = middle
            else:
                found, high = leaner, max(self.stage_bytes(leaner))
        return found

    def best(self, limit: float, most_s: float = inf) -> Split | None:
        """Give the fastest split whose ranks stay within `limit` bytes; None where none is within `most_s` seconds."""
        if not self.fits(limit):
            return None
        found: Split | None = None
        size, ties = inf, 0
        for bound, prefix in self._bounded:
            best_s = found.step_s if found is not None else most_s
            if bound > best_s * (1 + _EQUAL) or (bound >= best_s * (1 - _EQUAL) and ties >= _MOST_TIES):
                break
            for vision in self._spreads(prefix, limit):
                step_s, deal = self._deal(vision, prefix, limit, best_s * (1 + _EQUAL))
                is_tie = found is not None and abs(step_s - best_s) <= _EQUAL * best_s
                if deal is None or (step_s > best_s and not is_tie) or (is_tie and ties >= _MOST_TIES):
                    continue
                split = self._split(vision, prefix.pure, limit, step_s, deal)
                ties = ties + 1 if is_tie else 0
                taken = max(self.stage_bytes(split))
                if not is_tie or taken < size:
                    found, size, best_s = split, taken, step_s
        return found

    def _split(self, vision: tuple[int, ...], begins: int, limit: float, step_s: float, deal: Deal) -> Split:
        return Split(
            vision=(*vision, *[0] * (self._pp - len(vision))),
            text=(*[0] * begins, *self._counts(vision, begins, limit, deal)),
            step_s=step_s,
        )

    @cached_property
    def _prefixes(self) -> list[tuple[int, range]]:
        """List numbers of stages with vision alone, with the vision layers that the next stage may have."""
        depth, layers, pp = self._depth, self._layers, self._pp
        found = []
        if not self._trains:
            if layers >= pp:
                found.append((0, range(depth, depth + 1)))
            if pp > 1 and layers >= pp - 1:
                found.append((1, range(0, 1)))
            return found
        for pure in range(max(0, pp - layers), min(depth, pp - 1) + 1):
            found.append((pure, range(0 if pure else depth, depth - pure + 1)))
        return found

    @cached_property
    def _bounded(self) -> list[tuple[float, _Prefix]]:
        """List the prefixes with a time that none of their splits can beat, whatever its memory; fastest first."""
        found = [pair for pure, lasts in self._prefixes for pair in self._bounds(pure, lasts)]
        return sorted(found, key=lambda pair: pair[0])

    def _bounds(self, pure: int, lasts: range) -> Iterator[tuple[float, _Prefix]]:
        """Yield the bounds of prefixes with so many stages of vision alone."""
        if pure == self._end:
            for last in lasts:
                spent, worst = self._of_vision(pure, last)
                time, value = self._costs.seconds(last, self._layers, pure, embeds=True)
                yield spent + time + max(worst, value), _Prefix(pure=pure, last=last)
            return
        # A layer of vision more adds the same to each place that has some.
        none, one, two = (self._place(count, pure) for count in (0, 1, 2))
        least = LeastSeconds(one, self._inner_place, self._end_place, self._end - pure, self._layers)
        more_time, more_value = two.time - one.time, two.value - one.value
        for last in lasts:
            spent, worst = self._of_vision(pure, last)
            time = one.time + (last - 1) * more_time if last else none.time
            value = one.value + (last - 1) * more_value if last else none.value
            yield spent + least.of(time, value, worst), _Prefix(pure=pure, last=last)

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

    def _deal(self, vision: tuple[int, ...], prefix: _Prefix, limit: float, most_s: float) -> tuple[float, Deal | None]:
        """Deal the text behind a prefix whose vision is spread like this.

        Gives the seconds of a step; no deal where it does not fit, or takes longer than `most_s` anyway.
        """
        begins, spent, worst = prefix.pure, 0.0, 0.0
        for stage in range(begins):
            done = stage == len(vision) - 1
            if self._costs.size(vision[stage], 0, stage, done=done) > limit:
                return inf, None
            time, value = self._costs.seconds(vision[stage], 0, stage, done=done)
            spent, worst = spent + time, max(worst, value)
        least = max(1, self._at(limit).text_left(begins))
        highest = self._layers - (self._end - begins)
        if least > highest:
            return inf, None
        if begins == self._end:
            time, value = self._costs.seconds(prefix.last, self._layers, begins, embeds=True)
            whole = Deal(seconds=time + max(worst, value), threshold=max(worst, value), last=self._layers)
            fits = self._costs.size(prefix.last, least, begins, embeds=True) <= limit
            return (spent + whole.seconds, whole) if fits else (inf, None)
        inner, end = self._at(limit).inner, replace(self._end_place, most=self._at(limit).end)

        def deal(begin: Place) -> Deal | None:
            found = best_deal(begin, inner, end, begins, self._layers, worst)
            return found if found is not None and spent + found.seconds <= most_s else None

        # As if all text fitted where it begins: bytes are counted where that is fast enough.
        found = deal(self._place(prefix.last, begins))
        if found is None or self._costs.size(prefix.last, least, begins, embeds=True) > limit:
            return inf, None
        needs = max(1, self._layers - found.last - inner.room(begins, found.threshold))
        if self._costs.size(prefix.last, needs, begins, embeds=True) > limit:
            found = deal(self._begin(prefix.last, begins, least, limit))
        return (spent + found.seconds, found) if found is not None else (inf, None)

    def _counts(self, vision: tuple[int, ...], begins: int, limit: float, deal: Deal) -> list[int]:
        """Give the text layers of the stages from `begins` on."""
        if begins == self._end:
            return [deal.last]
        held = vision[begins] if begins < len(vision) else 0
        begin, inner = self._begin(held, begins, 1, limit), self._at(limit).inner
        places = [begin, *[inner.place] * inner.count(begins)]
        rooms = [begin.room(deal.threshold), *inner.rooms(begins, deal.threshold)]
        return [*dealt(places, rooms, self._layers - deal.last), deal.last]

    def _begin(self, vision: int, stage: int, least: int, limit: float) -> Place:
        """Describe the stage on which text begins."""
        highest = self._layers - (self._end - stage)
        held = most(lambda count: self._costs.size(vision, count, stage, embeds=True), highest, limit, least)
        return self._place(vision, stage, most=held)

    def _place(self, vision: int, stage: int, most: int | None = None) -> Place:
        return self._line(
            lambda count: self._costs.seconds(vision, count, stage, embeds=True),
            self._layers - (self._end - stage) if most is None else most,
        )

    @cached_property
    def _inner_place(self) -> Place:
        # Any stage that is neither the first nor the last.
        return self._line(lambda count: self._costs.seconds(0, count, 1 if self._end > 1 else 0), self._layers)

    @cached_property
    def _end_place(self) -> Place:
        return self._line(lambda count: self._costs.seconds(0, count, self._end), self._layers)

    def _line(self, seconds: Callable[[int], tuple[float, float]], most: int) -> Place:
        (time, value), (time_2, value_2) = seconds(1), seconds(2)
        return Place(most=most, time=time, more_time=time_2 - time, value=value, more_value=value_2 - value)

    def _at(self, limit: float) -> Capacity:
        """Give what fits within a limit; that of the last limit is kept."""
        if self._capacity is None or self._capacity.limit != limit:
            stages = min(self._depth if self._trains else 1, self._end)
            self._capacity = Capacity(
                self._costs,
                limit,
                depth=self._depth,
                layers=self._layers,
                end=self._end,
                vision_stages=stages,
                inner=self._inner_place,
            )
        return self._capacity

    def _spreads(self, prefix: _Prefix, limit: float) -> list[tuple[int, ...]]:
        """Give ways to lay vision on a prefix's stages: all of few; else the fastest and even ones within memory."""
        pure, held = prefix.pure, self._depth - prefix.last
        tail = (prefix.last,) if prefix.last else ()
        if not pure:
            return [tail]
        if self._depth <= _FEW_LAYERS:
            return [(*spread, *tail) for spread in _compositions(held, pure)]
        alone, ending = self._at(limit).vision, self._at(limit).ending_vision
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
        return more[1] > more[0] * (1 + _EQUAL)

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
