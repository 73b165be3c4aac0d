"""Text layers dealt to stages by a threshold: no stage takes longer, the last, which runs nothing twice, takes most.

All text layers cost the same, so a stage with text is a line: seconds with one layer, and what one more adds.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil, floor, inf

# Sums of seconds are exact to this, relatively: less than what makes two of them differ (`bounds.EQUAL`).
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Place:
    """A stage that takes text: the seconds and the threshold value of one layer, what one more adds, and the most."""

    most: int
    time: float
    more_time: float
    value: float
    more_value: float

    def room(self, limit: float) -> int:
        """Give the layers that it may take under a threshold; 0 where not even one."""
        return min(self.most, self.under(limit))

    def under(self, limit: float) -> int:
        """Give the same, whatever the most."""
        if self.value > limit * (1 + _ROUNDING):
            return 0
        if self.more_value <= 0:
            return self.most
        return 1 + floor((limit - self.value) / self.more_value + 1e-9)


class Inner:
    """The stages of text alone between the first with text and the last: alike, but the later the more fits."""

    def __init__(self, place: Place, most: Sequence[int]) -> None:
        self.place = place
        self._most = most
        self._sums = [0, *accumulate(most)]

    def count(self, begins: int) -> int:
        """Count those after the first with text, the `begins`-th stage."""
        return max(0, len(self._most) - begins)

    def room(self, begins: int, limit: float) -> int:
        """Give the layers that all of them may take under a threshold; -1 where one takes none."""
        count = self.count(begins)
        if not count:
            return 0
        each = self.place.under(limit)
        if min(each, self._most[begins]) < 1:
            return -1
        full = bisect_left(self._most, each, begins)
        return self._sums[full] - self._sums[begins] + each * (len(self._most) - full)

    def holds(self, begins: int) -> int:
        """Give the layers that all of them may take; -1 where one takes none."""
        count = self.count(begins)
        return -1 if count and self._most[begins] < 1 else self._sums[-1] - self._sums[begins] if count else 0

    def rooms(self, begins: int, limit: float) -> list[int]:
        """Give the layers that each of them may take under a threshold."""
        each = self.place.under(limit)
        return [min(each, most) for most in self._most[begins:]]


@dataclass(frozen=True, kw_only=True)
class Deal:
    """The text that the last stage takes, and the threshold of the others; seconds of all stages with text."""

    seconds: float
    threshold: float
    last: int


class _Stages:
    """The stages with text of one prefix: the first of them, those between, the last. `others` counts all but the last.

    The last takes `most_last` layers at most: no other stage goes without.
    """

    def __init__(self, begin: Place, inner: Inner, end: Place, begins: int, layers: int) -> None:
        self._begin, self._inner, self._end, self._begins, self._layers = begin, inner, end, begins, layers
        self.others = 1 + inner.count(begins)
        self.most_last = layers - self.others
        self._least = begin.time + (self.others - 1) * inner.place.time + end.time

    def hold_all(self) -> bool:
        """Tell whether the layers fit, whatever the time."""
        held = self._inner.holds(self._begins)
        if held < 0 or min(self._begin.most, self._end.most, self.most_last) < 1:
            return False
        return self._begin.most + held + self._end.most >= self._layers

    def places(self) -> list[Place]:
        """List each kind of stage."""
        return [self._begin, self._end, *([self._inner.place] if self.others > 1 else [])]

    def has_room(self, threshold: float) -> bool:
        """Tell whether the layers fit where no stage is above a threshold."""
        inner = self._inner.room(self._begins, threshold)
        return self._begin.room(threshold) + inner + self._end.room(threshold) >= self._layers

    def last(self, threshold: float) -> int:
        """Give the layers of the last stage under a threshold: it takes most."""
        return min(self._end.room(threshold), self.most_last)

    def seconds(self, last: int) -> float:
        """Give the seconds of all stages, without the threshold, where the last has so many layers."""
        others = (self._layers - last - self.others) * self._begin.more_time
        return self._least + (last - 1) * self._end.more_time + others

    def highest(self, worst: float, most_s: float) -> float:
        """Give a threshold above which no deal is within `most_s`; less than `worst` where none is at all.

        The lower it is, the fewer layers the last stage takes, and the more seconds the others do.
        """
        last = min(self._end.most, self.most_last)
        while last > 0:
            found = most_s - min(self.seconds(1), self.seconds(last))
            if found < worst or not self.has_room(found):
                break
            fewer = self.last(found)
            if fewer >= last:
                return found
            last = fewer
        return -inf

    def thresholds(self, worst: float, highest: float) -> list[float]:
        """List those at which a stage takes a layer more, from `worst` to `highest`."""
        found = {worst}
        for place in self.places():
            value, more, count = place.value, place.more_value, min(place.most, self._layers)
            least = most = 0
            if more > 0:
                least = max(0, floor((worst - value) / more))
                most = count if highest == inf else min(count, ceil((highest - value) / more) + 1)
            found.update(threshold for n in range(least, most) if worst < (threshold := value + n * more) <= highest)
        return sorted(found)


def best_deal(
    begin: Place, inner: Inner, end: Place, begins: int, layers: int, worst: float, most_s: float = inf
) -> Deal | None:
    """Give the fastest way to deal text layers to three or more kinds of stages, none under the threshold `worst`.

    None where they do not fit, or take more than `most_s` seconds.
    """
    stages = _Stages(begin, inner, end, begins, layers)
    if not stages.hold_all():
        return None
    worst = max(worst, *(place.value for place in stages.places()))
    most_s *= 1 + _ROUNDING
    highest = stages.highest(worst, most_s) if most_s < inf else inf
    if highest < worst:
        return None
    thresholds = stages.thresholds(worst, highest)
    low, high = 0, len(thresholds) - 1
    while low < high:
        middle = (low + high) // 2
        if stages.has_room(thresholds[middle]):
            high = middle
        else:
            low = middle + 1
    gain = layers * max(0.0, begin.more_time - end.more_time)
    best: Deal | None = None
    for threshold in thresholds[low:]:
        if threshold - thresholds[low] > gain:
            break
        if not stages.has_room(threshold):
            continue
        last = stages.last(threshold)
        total = stages.seconds(last) + threshold
        if best is None or total < best.seconds:
            best = Deal(seconds=total, threshold=threshold, last=last)
    return best if best is not None and best.seconds <= most_s else None


class LeastSeconds:
    """Gives seconds that no deal is under, whatever fits: layers are cut at will. `others` counts stages but the last.

    All first stages with text that are asked about add `begin.more_time` and `begin.more_value` with a layer more.
    """

    def __init__(self, begin: Place, inner: Place, end: Place, others: int, layers: int) -> None:
        self._worst = max(end.value, inner.value) if others > 1 else end.value
        self._begin, self._end, self._left = begin, end, layers - others - 1
        self._base = (others - 1) * inner.time + end.time
        self._is_flat = min(begin.more_value, inner.more_value, end.more_value) <= 0
        if not self._is_flat:
            self._rates = 1 / begin.more_value + (others - 1) / inner.more_value + 1 / end.more_value
            self._values = (others - 1) * inner.value / inner.more_value + end.value / end.more_value

    def of(self, time: float, value: float, worst: float) -> float:
        """Give them for the seconds and the value of a first stage with text, and a threshold that is there anyway."""
        begin, end, left = self._begin, self._end, self._left
        worst = max(worst, value, self._worst)
        base = time + self._base
        if self._is_flat:
            return base + left * min(begin.more_time, end.more_time) + worst
        threshold = max(worst, (left + value / begin.more_value + self._values) / self._rates)
        last = float(left)
        saved = begin.more_time - end.more_time
        if saved <= end.more_value:
            # A higher threshold costs more than what the last stage saves by it.
            last = min(last, (threshold - end.value) / end.more_value)
        return base + left * begin.more_time - saved * last + threshold


def dealt(places: Sequence[Place], rooms: Sequence[int], layers: int) -> list[int]:
    """Give so many layers to places, as evenly in time as their rooms allow."""
    counts = [1] * len(places)
    heap = [(place.time, index) for index, place in enumerate(places) if rooms[index] > 1]
    heapq.heapify(heap)
    for _ in range(layers - len(places)):
        _, index = heapq.heappop(heap)
        counts[index] += 1
        if counts[index] < rooms[index]:
            place = places[index]
            heapq.heappush(heap, (place.time + (counts[index] - 1) * place.more_time, index))
    return counts
