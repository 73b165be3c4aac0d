"""The most layers that stages of one choice of a plan hold within a memory, by what else lies on them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from qvl_core.planner.costs import StageCosts
from qvl_core.planner.dealing import Inner, Place


class Capacity:
    """What fits within `limit` bytes; each is found when it is first asked for."""

    def __init__(
        self, costs: StageCosts, limit: float, *, depth: int, layers: int, end: int, vision_stages: int, inner: Place
    ) -> None:
        self.limit = limit
        self._costs, self._depth, self._layers, self._end = costs, depth, layers, end
        self._vision_stages, self._inner_place = vision_stages, inner

    @cached_property
    def end(self) -> int:
        """Give the text layers that fit on the last stage, with text alone."""
        return most(lambda count: self._costs.size(0, count, self._end), self._layers, self.limit)

    @cached_property
    def inner(self) -> Inner:
        """Give the stages 1 to pp - 2 with text alone, and the layers that fit on each."""
        held = self._on_each(range(1, self._end), self._layers, lambda count, stage: self._costs.size(0, count, stage))
        return Inner(self._inner_place, held)

    @cached_property
    def vision(self) -> list[int]:
        """List the vision layers that fit on each of the first stages, with vision alone and more on the next."""
        return self._vision(done=False)

    @cached_property
    def ending_vision(self) -> list[int]:
        """List the same where no vision comes after."""
        return self._vision(done=True)

    def text_left(self, begins: int) -> int:
        """Give the text layers that the stage on which text begins has to take; more than there are if none will do."""
        if begins == self._end:
            return self._layers
        if not self.end:
            return self._layers + 1
        held = self.inner.holds(begins)
        return self._layers - held - self.end if held >= 0 else self._layers + 1

    def _vision(self, *, done: bool) -> list[int]:
        def size(count: int, stage: int) -> float:
            return self._costs.size(count, 0, stage, done=done)

        first = [most(lambda count: size(count, 0), self._depth, self.limit)] if self._vision_stages else []
        return [*first, *self._on_each(range(1, self._vision_stages), self._depth, size)]

    def _on_each(self, stages: range, highest: int, size: Callable[[int, int], float]) -> list[int]:
        """List the layers that fit on each stage behind the first: never fewer on a later one."""
        held: list[int] = []
        count = most(lambda n: size(n, stages[-1]), highest, self.limit) if stages else 0
        for stage in reversed(stages):
            while count and size(count, stage) > self.limit:
                count -= 1
            held.append(count)
        return held[::-1]


def most(size: Callable[[int], float], highest: int, limit: float, least: int = 0) -> int:
    """Give the layers, up to `highest`, whose size is within the limit; `least` are known to be."""
    low, high = least, highest
    while low < high:
        middle = (low + high + 1) // 2
        if size(middle) <= limit:
            low = middle
        else:
            high = middle - 1
    return low
