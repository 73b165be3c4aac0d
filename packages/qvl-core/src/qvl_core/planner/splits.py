"""The best stage lists for one tp, pp, dp, micro batch and recomputation within a memory: exact, without trying all.

Vision comes first, so a split is a prefix of stages with vision, the last of which may begin with text, and stages with
text alone. All layers of a component cost the same, in bytes and in seconds; so for each vision prefix the text is
dealt by thresholds: no stage may take longer than the threshold, the last one, which runs nothing twice, takes as much
as it may.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor, inf

from qvl_core.layout import Layout
from qvl_core.parallel.schedule import micro_batches_in_flight
from qvl_core.params import Component
from qvl_core.planner.job import Job
from qvl_core.planner.memory import PartMemory, StageShape, stage_shapes
from qvl_core.planner.timing import PartTimes, replica_seconds, update_seconds

# Up to so many vision layers every prefix is tried; beyond, no more stages than vision's share of the work asks for.
_FEW_LAYERS = 8


@dataclass(frozen=True, kw_only=True)
class Split:
    """Stage lists, and the seconds of a step with them."""

    vision: tuple[int, ...]
    text: tuple[int, ...]
    step_s: float


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A stage that takes text: seconds and threshold value with `least` layers, what one more adds, and its limits."""

    least: int
    most: int
    time: float
    more_time: float
    value: float
    more_value: float

    def room(self, limit: float) -> int:
        """Give the layers that it may take under a threshold; less than `least` means none fits."""
        if self.value > limit * (1 + 1e-12):
            return self.least - 1
        if self.more_value <= 0:
            return self.most
        return min(self.most, self.least + floor((limit - self.value) / self.more_value + 1e-9))


class LeastMemory:
    """Gives bytes that no split is under, for any tp, pp and dp; what is recomputed makes no difference to them."""

    def __init__(self, job: Job, micro_batch: int) -> None:
        self._job, self._micro_batch = job, micro_batch
        self._whole = _whole(job)
        self._parts: dict[tuple[int, int], PartMemory] = {}

    def of(self, tp: int, pp: int, dp: int) -> float:
        """Give bytes that the fullest rank takes at least."""
        parts = self._parts.get((tp, dp))
        if parts is None:
            parts = PartMemory(
                self._job,
                tp=tp,
                dp=dp,
                samples=self._micro_batch,
                recompute=frozenset(),
                zero1=self._job.task == "train" and dp > 1,
            )
            self._parts[tp, dp] = parts
        return parts.least_bytes(self._whole, pp, _communicators(tp, pp, dp))


class SplitSearch:
    """Finds splits for one tp, pp, dp, micro batch and recomputation."""

    def __init__(
        self,
        job: Job,
        *,
        tp: int,
        pp: int,
        dp: int,
        micro_batch: int,
        recompute: frozenset[Component],
        zero1: bool,
    ) -> None:
        self._job, self._tp, self._pp, self._dp, self._zero1 = job, tp, pp, dp, zero1
        self._micro_batches = max(1, job.global_batch // (micro_batch * dp)) if job.task == "train" else 1
        self._memory = PartMemory(job, tp=tp, dp=dp, samples=micro_batch, recompute=recompute, zero1=zero1)
        self._times = PartTimes(job, tp=tp, dp=dp, samples=micro_batch, recompute=recompute)
        self._communicators = _communicators(tp, pp, dp)
        self._bytes = lru_cache(maxsize=None)(self._stage_bytes)
        self._seconds = lru_cache(maxsize=None)(self._stage_seconds)
        self._places = lru_cache(maxsize=None)(self._place)
        self._most_vision = lru_cache(maxsize=None)(self._find_most_vision)
        self._most_text = lru_cache(maxsize=None)(self._find_most_text)
        # Of one micro batch through all stages; the last stage runs nothing twice.
        self._least_total, _ = self._seconds(_whole(job), True, True)

    def least_step(self) -> float:
        """Give a time that no split can beat, whatever its memory: the best of what the last stage may hold."""
        layers, others = self._job.spec.text.num_layers, self._pp - 1
        _, end = self._seconds(_whole(self._job), True, True)
        # The stages' means are never more than the slowest of them.
        end = (end - (self._micro_batches - 1) * self._least_total) / self._pp
        if not others:
            return self._micro_batches * self._least_total + end
        ahead, back = self._times.text_layer
        layer = ahead.total + back.total
        again = ahead.total if back.total and self._job.engine.tape else 0.0
        base = self._least_total + others * self._times.hand_over
        best = inf
        for last in range(1, layers + 1):
            total = base + (layers - last) * again
            crowded = ceil((layers - last) / others) * (layer + again)
            best = min(best, total + (self._micro_batches - 1) * max(total / self._pp, last * layer, crowded))
        return best + end

    def least_memory(self) -> float:
        """Give bytes that the fullest rank takes at least, whatever the split."""
        return self._memory.least_bytes(_whole(self._job), self._pp, self._communicators)

    def least_bytes(self, below: float = inf) -> tuple[float, Split] | None:
        """Give the least memory in which a split exists, to 0.1 %, and that split; None where it is not under `below`.

        Any split that fits will do on the way: the fastest is not looked for.
        """
        found = self.best(below, any_will_do=True)
        if found is None:
            return None
        low, high = self.least_memory(), max(self.stage_bytes(found))
        while high - low > 1e-3 * high:
            middle = (low + high) / 2
            smaller = self.best(middle, any_will_do=True)
            if smaller is None:
                low = middle
            else:
                found, high = smaller, max(self.stage_bytes(smaller))
        return high, found

    def stage_bytes(self, split: Split) -> list[float]:
        """Give the bytes of a rank of each stage of a split."""
        layout = Layout(vision_stages=split.vision, text_stages=split.text, tp=self._tp, pp=self._pp, dp=self._dp)
        return [self._bytes(shape, stage) for stage, shape in enumerate(stage_shapes(layout))]

    def best(self, limit: float, *, any_will_do: bool = False) -> Split | None:
        """Give the fastest split, or any, whose ranks stay within `limit` bytes; None where there is none."""
        found: Split | None = None
        if self.least_memory() > limit or not self._may_hold(limit):
            return None
        for vision, begins in self._prefixes(limit):
            split = self._deal(vision, begins, limit, found.step_s if found else inf)
            if split is not None and (found is None or split.step_s < found.step_s):
                found = split
                if any_will_do:
                    break
        return found

    def _may_hold(self, limit: float) -> bool:
        """Tell whether there might be a split, without trying any: False is certain.

        A stage between the first and the last holds no more than one of its kind with the fewest micro batches in
        flight; the stage on which text begins counts as one of either kind.
        """
        if self._job.task != "train" or self._pp == 1:
            return True
        depth, layers, end = self._job.spec.vision.depth, self._job.spec.text.num_layers, self._pp - 1
        first = max(self._most_vision(0, done, depth, limit) for done in (False, True))
        if not first:
            return False
        left = depth - first
        more = max(self._most_vision(end, done, depth, limit) for done in (False, True)) if left > 0 else 1
        if not more:
            return False
        begins = ceil(left / more) if left > 0 else 0
        inner = self._most_text(end, False, layers, limit)
        last = self._most_text(end, True, layers, limit)
        opening = max(inner, self._most_text(0, False, layers, limit)) if begins == 0 else inner
        return (
            begins <= end and last > 0 and (end > begins) * opening + max(0, end - begins - 1) * inner + last >= layers
        )

    def _find_most_text(self, stage: int, head: bool, highest: int, limit: float) -> int:
        """Give the text layers that fit on a stage of text alone that does not embed, 0 if none does."""
        low, high = 0, highest
        while low < high:
            middle = (low + high + 1) // 2
            shape = self._shape(0, middle, first=False, done=True, embeds=False, head=head)
            if self._bytes(shape, stage) <= limit:
                low = middle
            else:
                high = middle - 1
        return low

    def _prefixes(self, limit: float) -> Iterator[tuple[tuple[int, ...], int]]:
        """Yield vision's layers on the first stages, and the stage on which text begins."""
        depth, layers = self._job.spec.vision.depth, self._job.spec.text.num_layers
        if self._job.task != "train":
            if self._pp == 1 or layers >= self._pp - 1:
                if layers >= self._pp:
                    yield (depth,), 0
                if self._pp > 1:
                    yield (depth,), 1
            return
        most = min(self._pp, depth)
        if depth > _FEW_LAYERS:
            most = min(most, max(self._share_of_vision() + 1, self._pp - layers + 1))
        for stages in range(1, most + 1):
            if stages < self._pp and self._pp - stages <= layers:
                for pure in self._spreads(depth, stages, limit, ends=True):
                    yield pure, stages
            if self._pp - stages + 1 > layers:
                continue
            # The last of them begins with text.
            for last in range(1, depth - stages + 2) if stages > 1 else (depth,):
                for pure in self._spreads(depth - last, stages - 1, limit, ends=False):
                    yield (*pure, last), stages - 1

    def _spreads(self, depth: int, stages: int, limit: float, *, ends: bool) -> list[tuple[int, ...]]:
        """Give the ways to lay layers on stages of vision alone: all of few; else the even ones that memory allows.

        `ends`: the last of them is the last with vision.
        """
        if stages == 0 or depth < stages:
            return [()] if stages == depth == 0 else []
        if depth <= _FEW_LAYERS:
            return _compositions(depth, stages)
        parts = tuple(depth // stages + (stage < depth % stages) for stage in range(stages))
        most = [
            self._most_vision(stage, stage == stages - 1 and ends, depth - stages + 1, limit) for stage in range(stages)
        ]
        return sorted({_moved(parts, most), _moved(parts[::-1], most)}, reverse=True)

    def _find_most_vision(self, stage: int, done: bool, highest: int, limit: float) -> int:
        """Give the vision layers that fit on a stage of vision alone, 0 if none does."""
        low, high = 0, highest
        while low < high:
            middle = (low + high + 1) // 2
            shape = self._shape(middle, 0, first=stage == 0, done=done, embeds=False, head=False)
            if self._bytes(shape, stage) <= limit:
                low = middle
            else:
                high = middle - 1
        return low

    def _share_of_vision(self) -> int:
        """Count the stages that vision's share of the work would fill."""
        depth = self._job.spec.vision.depth
        vision, _ = self._seconds(self._shape(depth, 0, first=True, done=True, embeds=False, head=False), True, False)
        layers = self._job.spec.text.num_layers
        text, _ = self._seconds(self._shape(0, layers, first=False, done=True, embeds=True, head=True), False, True)
        return max(1, ceil(self._pp * vision / (vision + text)))

    def _deal(self, vision: tuple[int, ...], begins: int, limit: float, most: float) -> Split | None:
        """Deal the text layers to the stages from `begins` on; None where that takes more than `most` seconds."""
        fixed_time = worst = 0.0
        for stage in range(begins):
            shape = self._shape(
                vision[stage], 0, first=stage == 0, done=stage == len(vision) - 1, embeds=False, head=False
            )
            if self._bytes(shape, stage) > limit:
                return None
            time, value = self._seconds(shape, stage == 0, False)
            fixed_time, worst = fixed_time + time, max(worst, value)
        if self._least_total + worst >= most:
            return None
        places = []
        for stage in range(begins, self._pp):
            held_vision = vision[stage] if stage < len(vision) else 0
            highest = self._job.spec.text.num_layers - (self._pp - begins - 1)
            place = self._places(held_vision, stage, stage == begins, highest, limit)
            if place is None:
                return None
            worst = max(worst, place.value)
            places.append(place)
        if self._least_total + worst >= most:
            return None
        dealt = self._threshold(places, worst)
        if dealt is None or fixed_time + dealt[0] >= most:
            return None
        total, threshold, last = dealt
        return Split(
            vision=(*vision, *[0] * (self._pp - len(vision))),
            text=(*[0] * begins, *_dealt(places, threshold, last, self._job.spec.text.num_layers)),
            step_s=fixed_time + total,
        )

    def _place(self, vision: int, stage: int, embeds: bool, highest: int, limit: float) -> _Place | None:
        """Describe a stage with text, at most `highest` layers of it; None if not even one layer fits."""

        def shape(count: int) -> StageShape:
            return self._shape(vision, count, first=stage == 0, done=True, embeds=embeds, head=stage == self._pp - 1)

        if self._bytes(shape(1), stage) > limit:
            return None
        low, high = 1, highest
        while low < high:
            middle = (low + high + 1) // 2
            if self._bytes(shape(middle), stage) <= limit:
                low = middle
            else:
                high = middle - 1
        is_first, is_last = stage == 0, stage == self._pp - 1
        time, value = self._seconds(shape(1), is_first, is_last)
        time_2, value_2 = self._seconds(shape(2), is_first, is_last)
        return _Place(least=1, most=low, time=time, more_time=time_2 - time, value=value, more_value=value_2 - value)

    def _threshold(self, places: list[_Place], worst: float) -> tuple[float, float, int] | None:
        """Give the seconds of the best way to deal the text, its threshold, and the layers of the last place."""
        layers, others = self._job.spec.text.num_layers, len(places) - 1
        if not places or sum(place.most for place in places) < layers or len(places) > layers:
            return None
        kinds: dict[tuple[float, float], int] = {}
        for place in places:
            kind = place.value, place.more_value
            kinds[kind] = max(kinds.get(kind, 0), place.most - place.least)
        values = {value + n * more for (value, more), most in kinds.items() for n in range(most + 1)}
        thresholds = sorted({worst, *(value for value in values if value > worst)})
        low, high = 0, len(thresholds) - 1
        while low < high:
            middle = (low + high) // 2
            if sum(place.room(thresholds[middle]) for place in places) >= layers:
                high = middle
            else:
                low = middle + 1
        end = places[-1]
        least = sum(place.time for place in places)
        more = places[0].more_time
        gain = layers * max(0.0, more - end.more_time)
        best: tuple[float, float, int] | None = None
        for threshold in thresholds[low:]:
            if threshold - thresholds[low] > gain:
                break
            rooms = [place.room(threshold) for place in places]
            if sum(rooms) < layers or min(rooms) < 1:
                continue
            last = min(rooms[-1], layers - others)
            total = least + (last - 1) * end.more_time + (layers - last - others) * more + threshold
            if best is None or total < best[0]:
                best = total, threshold, last
        return best

    def _shape(self, vision: int, text: int, *, first: bool, done: bool, embeds: bool, head: bool) -> StageShape:
        return StageShape(
            vision=vision,
            text=text,
            patch_embed=first,
            merger=vision > 0 and done,
            embeds=embeds,
            head=head,
            vision_done=done,
        )

    def _stage_bytes(self, shape: StageShape, stage: int) -> float:
        return self._memory.of_stage(
            shape,
            in_flight=micro_batches_in_flight(stage, self._pp, self._micro_batches),
            is_first=stage == 0,
            is_last=stage == self._pp - 1,
            communicators=self._communicators,
        ).total

    def _stage_seconds(self, shape: StageShape, is_first: bool, is_last: bool) -> tuple[float, float]:
        """Give a stage's seconds for one micro batch, and for all but one and the end of the step."""
        job, held = self._job, self._memory.held(shape)
        forward, backward = self._times.of_stage(shape, held, is_first=is_first, is_last=is_last)
        time = forward.total + backward.total
        if job.task != "train":
            return time + self._times.answers(shape, self._memory.cache_bytes(shape)).total, 0.0
        end = 0.0
        if held.trained:
            end = replica_seconds(job, held, tp=self._tp, dp=self._dp, zero1=self._zero1)
            end += update_seconds(job, held, zero1=self._zero1)
        return time, (self._micro_batches - 1) * time + end


def _communicators(tp: int, pp: int, dp: int) -> int:
    return 1 + (tp > 1) + (pp > 1) + (dp > 1)


def _whole(job: Job) -> StageShape:
    """Give the shape of a stage that holds all of the model."""
    return StageShape(
        vision=job.spec.vision.depth,
        text=job.spec.text.num_layers,
        patch_embed=True,
        merger=True,
        embeds=True,
        head=True,
        vision_done=True,
    )


def _dealt(places: list[_Place], threshold: float, last: int, layers: int) -> list[int]:
    """Give `last` layers to the last place, the rest evenly to the others, as far as the threshold allows."""
    rooms = [place.room(threshold) for place in places[:-1]]
    counts = [1] * len(rooms)
    for _ in range(layers - last - len(rooms)):
        places_open = [i for i, room in enumerate(rooms) if counts[i] < room]
        counts[min(places_open, key=lambda i: places[i].time + counts[i] * places[i].more_time)] += 1
    return [*counts, last]


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
