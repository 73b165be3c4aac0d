"""Which numbers of stages and replicas cannot do within a memory, known without looking at any split.

The fullest stage holds its part of the model, at least. And every pipeline has a last stage with text and the head, one
on which text begins, and one on which vision does. What the least of each takes, and how much text the others hold,
rules out most layouts before the search goes through them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace

from qvl_core.params import Component
from qvl_core.planner.capacity import most
from qvl_core.planner.costs import Choice, SharedCosts, StageCosts

# More stages than any model has layers.
_NONE = 1 << 30


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

    def fewest_stages(self, tp: int, dp: int, highest: int, limit: float) -> int:
        """Give the fewest stages, up to `highest`, with which that stays within `limit`; one more if none do."""
        if self.of(tp, 1, dp) <= limit:
            return 1
        return bisect_left(range(2, highest + 1), True, key=lambda pp: self.of(tp, pp, dp) <= limit) + 2


class StagesNeeded:
    """Gives the fewest stages, of two or more, that might do within `limit` bytes with a micro batch."""

    def __init__(self, shared: SharedCosts, replicas: Sequence[int], limit: float) -> None:
        self._shared, self._limit = shared, limit
        # With one replica nothing is sliced; of more, each further one leaves a rank no more to hold.
        self._replicas = [one for one in replicas if one > 1]
        self._known: dict[tuple[int, int, frozenset[Component]], int] = {}
        self._least: dict[tuple[int, frozenset[Component]], int] = {}

    @property
    def looks(self) -> int:
        """Count the tp, dp and recomputations that were looked at."""
        return len(self._known)

    def of(self, choice: Choice) -> int:
        """Give the stages that a choice needs at least, whatever its own are."""
        if choice.dp > 1 and choice.dp < self._least_replicas(choice):
            return _NONE
        return self._needed(choice)

    def _least_replicas(self, choice: Choice) -> int:
        key = choice.tp, choice.recompute
        if key not in self._least:
            place = bisect_left(self._replicas, True, key=lambda dp: self._needed(replace(choice, dp=dp)) < _NONE)
            self._least[key] = self._replicas[place] if place < len(self._replicas) else _NONE
        return self._least[key]

    def _needed(self, choice: Choice) -> int:
        key = choice.tp, choice.dp, choice.recompute
        if key not in self._known:
            self._known[key] = self._count(choice)
        return self._known[key]

    def _count(self, choice: Choice) -> int:
        limit, layers = self._limit, self._shared.job.spec.text.num_layers
        two, three = (StageCosts(self._shared, replace(choice, pp=stages)) for stages in (2, 3))
        least_first = min(two.size(1, 0, 0, done=done) for done in (False, True))
        least_begin = min(
            three.size(0, 1, 1, embeds=True), two.size(0, 1, 0, embeds=True), two.size(0, 1, 1, embeds=True)
        )
        if max(least_first, least_begin) > limit:
            return _NONE

        def text(size: Callable[[int], float]) -> int:
            return most(size, layers, limit)

        last = text(lambda count: three.size(0, count, 2))
        if not last or last >= layers:
            return 2 if last else _NONE
        inner = text(lambda count: three.size(0, count, 1))
        left = layers - last - max(inner, text(lambda count: two.size(0, count, 0)))
        if left > 0 and not inner:
            return _NONE
        return 2 + (-(-left // inner) if left > 0 else 0)
