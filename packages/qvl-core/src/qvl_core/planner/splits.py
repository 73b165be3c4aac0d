"""The best stage lists for one tp, pp, dp, micro batch and recomputation within a memory: exact, without trying all.

Vision comes first, so a split is a prefix of stages with vision, the last of which may begin with text, and stages with
text alone. All layers of a component cost the same, in bytes and in seconds; so for each vision prefix the text is
dealt by thresholds (`dealing`). Prefixes are looked at in the order of a bound that ignores memory (`bounds`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

from qvl_core.planner.bounds import EQUAL, Prefix, StepBounds
from qvl_core.planner.capacity import Capacity, most
from qvl_core.planner.costs import Choice, SharedCosts, StageCosts
from qvl_core.planner.dealing import Deal, Place, best_deal, dealt
from qvl_core.planner.vision_spreads import VisionSpreads

# Of prefixes that are as fast so many are looked at.
_MOST_TIES = 4


@dataclass(frozen=True, kw_only=True)
class Split:
    """Stage lists, and the seconds of a step with them."""

    vision: tuple[int, ...]
    text: tuple[int, ...]
    step_s: float


class SplitSearch:
    """Finds splits for one choice of tp, pp, dp, micro batch and recomputation."""

    def __init__(self, shared: SharedCosts, choice: Choice) -> None:
        self._pp = choice.pp
        self._costs = StageCosts(shared, choice)
        self._depth, self._layers = shared.job.spec.vision.depth, shared.job.spec.text.num_layers
        self._bounds = StepBounds(shared.job, self._costs, choice.pp)
        self._spreads = VisionSpreads(self._costs, self._depth)
        self._end = choice.pp - 1
        self._trains, self._whole = shared.job.task == "train", shared.whole
        self._capacity: Capacity | None = None

    def least_step(self) -> float:
        """Give a time that no split can beat, whatever its memory."""
        return self._bounds.least_step()

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
        return any(self._has_room(pure, lasts, limit) for pure, lasts in self._bounds.prefixes)

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
            leaner = self.best(middle, found.step_s * (1 + EQUAL))
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
        best_s = most_s

        def highest() -> float:
            # After some that are as fast, only what is faster is of interest.
            return best_s * (1 - EQUAL if ties >= _MOST_TIES else 1 + EQUAL)

        for bound, prefix in self._bounds.bounded:
            if bound > highest():
                break
            for vision in self._spreads.of(prefix, self._at(limit)):
                step_s, deal = self._deal(vision, prefix, limit, highest())
                is_tie = found is not None and abs(step_s - best_s) <= EQUAL * best_s
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

    def _deal(self, vision: tuple[int, ...], prefix: Prefix, limit: float, most_s: float) -> tuple[float, Deal | None]:
        """Deal the text behind a prefix whose vision is spread like this.

        Gives the seconds of a step; no deal where it does not fit, or takes longer than `most_s` anyway.
        """
        begins, spent, worst = prefix.pure, 0.0, 0.0
        room = self._at(limit)
        for stage in range(begins):
            done = stage == len(vision) - 1
            if vision[stage] > (room.ending_vision if done else room.vision)[stage]:
                return inf, None
            time, value = self._costs.seconds(vision[stage], 0, stage, done=done)
            spent, worst = spent + time, max(worst, value)
        least = max(1, room.text_left(begins))
        highest = self._layers - (self._end - begins)
        if least > highest:
            return inf, None
        if begins == self._end:
            time, value = self._costs.seconds(prefix.last, self._layers, begins, embeds=True)
            whole = Deal(seconds=time + max(worst, value), threshold=max(worst, value), last=self._layers)
            fits = self._costs.size(prefix.last, least, begins, embeds=True) <= limit
            return (spent + whole.seconds, whole) if fits else (inf, None)
        inner, end = room.inner, replace(self._bounds.end_place, most=room.end)

        def deal(begin: Place) -> Deal | None:
            found = best_deal(begin, inner, end, begins, self._layers, worst, most_s - spent)
            return found if found is not None and spent + found.seconds <= most_s else None

        # As if all text fitted where it begins: bytes are counted where that is fast enough.
        found = deal(self._bounds.begin_place(prefix.last, begins))
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
        return self._bounds.begin_place(vision, stage, most=held)

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
                inner=self._bounds.inner_place,
            )
        return self._capacity
