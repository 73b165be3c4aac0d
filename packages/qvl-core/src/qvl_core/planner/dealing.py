"""Text layers dealt to stages by a threshold: no stage takes longer, the last, which runs nothing twice, takes most.

All text layers cost the same, so a stage with text is a line: seconds with one layer, and what one more adds.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import floor


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
        if self.value > limit * (1 + 1e-12):
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


def best_deal(begin: Place, inner: Inner, end: Place, begins: int, layers: int, worst: float) -> Deal | None:
    """Give the fastest way to deal text layers to three or more kinds of stages, none under the threshold `worst`."""
    others = 1 + inner.count(begins)
    held = inner.holds(begins)
    if held < 0 or min(begin.most, end.most) < 1 or begin.most + held + end.most < layers or others + 1 > layers:
        return None
    kinds = [begin, end, *([inner.place] if others > 1 else [])]
    worst = max(worst, *(kind.value for kind in kinds))

    def room(threshold: float) -> int:
        return begin.room(threshold) + inner.room(begins, threshold) + end.room(threshold)

    values = {kind.value + n * kind.more_value for kind in kinds for n in range(min(kind.most, layers))}
    thresholds = sorted({worst, *(value for value in values if value > worst)})
    low, high = 0, len(thresholds) - 1
    while low < high:
        middle = (low + high) // 2
        if room(thresholds[middle]) >= layers:
            high = middle
        else:
            low = middle + 1
    more = begin.more_time
    least = begin.time + (others - 1) * inner.place.time + end.time
    gain = layers * max(0.0, more - end.more_time)
    best: Deal | None = None
    for threshold in thresholds[low:]:
        if threshold - thresholds[low] > gain:
            break
        if room(threshold) < layers:
            continue
        last = min(end.room(threshold), layers - others)
        total = least + (last - 1) * end.more_time + (layers - last - others) * more + threshold
        if best is None or total < best.seconds:
            best = Deal(seconds=total, threshold=threshold, last=last)
    return best


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
