"""Packs of a streamed order: rows are taken in windows of consecutive positions, and each window is packed by itself.

A window is opened once for each rank: all its rows are planned, those that cannot be used are left out, the others are
packed by best fit and the packs shuffled. That depends on seed and window only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from qvl_core.errors import DataError, Problem

from qvl_data.batching.bad_samples import StopError, TooLongError, Unusable, reason_of
from qvl_data.batching.worker_threads import Task, Watch, WorkerThreads
from qvl_data.order.packing import PackGroup
from qvl_data.order.randomness import Purpose, shuffled
from qvl_data.order.stream_order import StreamOrder
from qvl_data.planning import PlannedSample
from qvl_data.streaming.row_rules import RowRules
from qvl_data.streaming.rows import Rows

MOST_ROWS = 4096
"""Positions of a window at most: enough to fill packs well, few enough to be tokenised during the window before."""
_SHARE = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class PackWindow:
    """A window that was opened. `plans` are its usable rows by position, `met` the others."""

    number: int
    plans: dict[int, PlannedSample]
    met: tuple[Unusable, ...]
    packs: tuple[tuple[int, ...], ...]
    """Positions that share a pack, in the order in which packs are used."""
    group: PackGroup

    def lengths(self, pack: int) -> tuple[int, ...]:
        """Give the tokens of each sample of a pack."""
        return tuple(self.plans[position].tokens for position in self.packs[pack])

    def not_longer(self, length: int) -> NDArray[np.int64]:
        """Give the positions whose samples fit into a place of so many tokens, shortest first."""
        return self.group.not_longer(length)


class OpeningWindow:
    """A window whose rows are being planned by threads."""

    def __init__(
        self, number: int, first: int, tasks: Sequence[Task[list[PlannedSample | Unusable]]], seed: int, capacity: int
    ) -> None:
        """`first` is the first position of the window."""
        self._number, self._first, self._tasks, self._seed, self._capacity = number, first, tasks, seed, capacity

    def wait(self, timeout_s: float) -> PackWindow:
        """Give the window. Raises DataError for a row that is not to be passed over, or if no row can be used."""
        found = [one for task in self._tasks for one in task.result(timeout_s)]
        plans = {self._first + i: one for i, one in enumerate(found) if isinstance(one, PlannedSample)}
        met = tuple(one for one in found if isinstance(one, Unusable))
        if not plans:
            raise _nothing_usable(met)
        lengths = np.array([plan.tokens for plan in plans.values()], np.int32)
        group = PackGroup(number=0, members=np.array(list(plans)), lengths=lengths, capacity=self._capacity)
        dealt, starts = group.deal(self._seed, self._number), group.packs.starts
        order = shuffled(len(group.packs), self._seed, Purpose.STREAM_PACKS, self._number)
        packs = tuple(tuple(dealt[starts[pack] : starts[pack + 1]].tolist()) for pack in order)
        return PackWindow(number=self._number, plans=plans, met=met, packs=packs, group=group)


class WindowOpener:
    """Plans the rows of windows in threads."""

    def __init__(
        self,
        rows: Rows,
        rules: RowRules,
        order: StreamOrder,
        *,
        size: int,
        seed: int,
        capacity: int,
        skips: bool,
        workers: int,
    ) -> None:
        """`size` is the number of positions in a window."""
        self.size = size
        self._rows, self._rules, self._order = rows, rules, order
        self._seed, self._capacity, self._skips = seed, capacity, skips
        self._threads = WorkerThreads(max(1, workers), name="qvl-plan")

    def begin(self, number: int) -> OpeningWindow:
        """Begin to open a window."""
        first, end = number * self.size, (number + 1) * self.size
        shares = [range(i, min(i + _SHARE, end)) for i in range(first, end, _SHARE)]
        tasks = [self._threads.submit(partial(self._planned, share)) for share in shares]
        return OpeningWindow(number, first, tasks, self._seed, self._capacity)

    def close(self) -> None:
        """Let the threads end."""
        self._threads.close()

    def _planned(self, positions: range, watch: Watch) -> list[PlannedSample | Unusable]:
        return list(self._plan(positions, watch))

    def _plan(self, positions: range, watch: Watch) -> Iterator[PlannedSample | Unusable]:
        for position in positions:
            watch.begin(f"the record at position {position:,} of the order")
            row = self._rows.row(self._order.row(position))
            watch.begin(row.where)
            try:
                yield self._rules.plan(row)
            except TooLongError as error:
                yield Unusable(where=row.where, reason=reason_of(error), kind="too_long")
            except DataError as error:
                if not self._skips or isinstance(error, StopError):
                    raise
                yield Unusable(where=row.where, reason=reason_of(error), kind="bad")


def _nothing_usable(met: Sequence[Unusable]) -> DataError:
    long = sum(one.kind == "too_long" for one in met)
    message = f"none of the {len(met):,} records around it can be used: {long:,} are too long, {len(met) - long:,} bad"
    fix = "look at the data: qvl data check RECIPE lists what is wrong"
    return DataError(Problem(where=met[0].where, message=f"{message}; this one: {met[0].reason}", fix=fix))
