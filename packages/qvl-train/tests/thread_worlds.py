"""Worlds of several ranks in the threads of one process: real meetings, so that a forgotten call hangs (for minutes).

One thread runs at a time; the next gets its turn when one waits for the others. Tensors travel as numpy arrays, sums
are made in rank order.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from queue import Queue
from types import SimpleNamespace
from typing import Any

import numpy as np
from qvl_core.layout import Layout
from qvl_core.parallel.mesh import coordinate_of, group_of, rank_of
from qvl_core.specs import ModelSpec

# Nothing takes as long, however busy the machine is: one thread runs at a time, and others wait for all of them.
PATIENCE_S = 180


@dataclass
class Meetings:
    """Where the threads meet: a barrier for each set of ranks, and what each of them brought."""

    turn: threading.Lock = field(default_factory=threading.Lock)
    places: dict[tuple[int, ...], tuple[threading.Barrier, dict[int, Any]]] = field(default_factory=dict)
    sent: dict[tuple[int, int], Queue[Any]] = field(default_factory=lambda: defaultdict(Queue))

    def meet(self, ranks: tuple[int, ...], rank: int, value: Any) -> list[Any]:
        """Give what every rank of the set brought, in order."""
        barrier, brought = self.places.setdefault(ranks, (threading.Barrier(len(ranks)), {}))
        brought[rank] = value
        self.turn.release()
        try:
            barrier.wait(PATIENCE_S)
            values = [brought[one] for one in ranks]
            barrier.wait(PATIENCE_S)
        finally:
            self.turn.acquire()
        return values

    def receive(self, source: int, rank: int) -> Any:
        """Give what a rank has sent to another, in order."""
        # Made while it is this thread's turn: two that make the same one at once would use two.
        mailbox = self.sent[source, rank]
        self.turn.release()
        try:
            return mailbox.get(timeout=PATIENCE_S)
        finally:
            self.turn.acquire()

    def abort(self) -> None:
        for barrier, _ in self.places.values():
            barrier.abort()


class ThreadGroup:
    def __init__(self, meetings: Meetings, ranks: tuple[int, ...], rank: int) -> None:
        self.ranks = ranks
        self.index = ranks.index(rank)
        self._meet = lambda value: meetings.meet(ranks, rank, value)

    @property
    def size(self) -> int:
        return len(self.ranks)

    def sum(self, x: Any) -> Any:
        from mindspore import Tensor

        return Tensor(self._total(x))

    def maximum(self, x: Any) -> Any:
        from mindspore import Tensor

        return Tensor(np.max(self._meet(x.asnumpy().copy()), axis=0))

    def sum_many(self, tensors: Sequence[Any]) -> list[Any]:
        return [self.sum(tensor) for tensor in tensors]

    def scatter_sum(self, x: Any) -> Any:
        from mindspore import Tensor

        return Tensor(np.split(self._total(x), self.size)[self.index].copy())

    def gather(self, x: Any) -> Any:
        from mindspore import Tensor

        return Tensor(np.concatenate(self._meet(x.asnumpy().copy())))

    def _total(self, x: Any) -> np.ndarray:
        first, *others = self._meet(x.asnumpy().copy())
        for other in others:
            first = first + other
        return first


class ThreadWorld:
    def __init__(self, meetings: Meetings, layout: Layout, rank: int, tied: tuple[int, ...] | None) -> None:
        self.layout, self.rank, self.place = layout, rank, coordinate_of(rank, layout)
        self._meet = lambda value: meetings.meet(tuple(range(layout.world_size)), rank, value)
        self.tensor = ThreadGroup(meetings, group_of(rank, "tp", layout), rank)
        self.data = ThreadGroup(meetings, group_of(rank, "dp", layout), rank)
        self.pipeline = ThreadGroup(meetings, group_of(rank, "pp", layout), rank)
        self.everyone = ThreadGroup(meetings, tuple(range(layout.world_size)), rank)
        self.tied = ThreadGroup(meetings, tied, rank) if tied else None
        self.times = SimpleNamespace(communication_s=0.0, waiting_s=0.0)
        self.phase = ""
        self._meetings = meetings

    def send(self, x: Any, stage: int) -> None:
        self._meetings.sent[self.rank, self._rank_at(stage)].put(x.asnumpy().copy())

    def receive(self, shape: tuple[int, ...], dtype: str, stage: int) -> Any:
        from mindspore import Tensor

        array = self._meetings.receive(self._rank_at(stage), self.rank)
        assert (array.shape, str(array.dtype)) == (tuple(shape), dtype)
        return Tensor(array)

    def swap(self, x: Any, shape: tuple[int, ...], dtype: str, stage: int) -> Any:
        self.send(x, stage)
        return self.receive(shape, dtype, stage)

    def finish_sends(self) -> None:
        pass

    def _rank_at(self, stage: int) -> int:
        return rank_of(replace(self.place, pp=stage), self.layout)

    def exchange(self, value: Any) -> list[Any]:
        return [json.loads(text) for text in self._meet(json.dumps(value))]


def run_ranks(layout: Layout, work: Callable[[Any], Any], *, spec: ModelSpec | None = None) -> list[Any]:
    """Do the work on every rank; give its results, or the exceptions it ended with, in rank order."""
    meetings = Meetings()
    results: list[Any] = [None] * layout.world_size

    def run(rank: int) -> None:
        with meetings.turn:
            try:
                results[rank] = work(ThreadWorld(meetings, layout, rank, _tied(spec, layout, rank)))
            except Exception as error:
                results[rank] = error
                if isinstance(error, threading.BrokenBarrierError):
                    meetings.abort()

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(layout.world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE_S)
    return results


def _tied(spec: ModelSpec | None, layout: Layout, rank: int) -> tuple[int, ...] | None:
    if spec is None or not spec.text.tie_word_embeddings:
        return None
    holders = [stage for stage, count in enumerate(layout.text_stages) if count]
    pipeline = group_of(rank, "pp", layout)
    pair = (pipeline[holders[0]], pipeline[holders[-1]])
    return pair if rank in pair and pair[0] != pair[1] else None
