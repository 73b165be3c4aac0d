"""Steps of micro batches in a fixed order, prepared ahead by threads.

Threads and not processes: decoding, resizing and tokenising release the interpreter lock, nothing is copied between
processes, and a fork under a loaded MindSpore can hang.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from qvl_core.batch import IGNORE, Batch
from qvl_core.errors import DataError, Problem

from qvl_data.batching.bad_samples import BadSamples
from qvl_data.batching.item_source import ItemSource, TakenItem, ValidationItems, indexed_items
from qvl_data.batching.micro_batch import collate
from qvl_data.batching.sample_maker import Made, SampleMaker
from qvl_data.batching.worker_threads import Task, WorkerThreads
from qvl_data.order.balance import deal_step
from qvl_data.preparation import PreparedData
from qvl_data.samples import Sample
from qvl_data.streaming.prepare import stream_items
from qvl_data.streaming.stream_items import Stream

if TYPE_CHECKING:
    from qvl_core.recipe.schema import Recipe

MicroBatch = Sequence[TakenItem]


@dataclass(frozen=True, kw_only=True)
class _Pending:
    """A micro batch in the making: its items, each with one task per sample."""

    item: TakenItem
    tasks: tuple[Task[Made], ...]


class BatchIterator(Iterator[list[Batch]]):
    """Steps, each the micro batches of one rank; for training they never end.

    Close it, or use it in a `with` block, to stop its threads. An exception in a thread is raised by `next` at the
    sample's place in the order: a DataError as it is, anything else as RunError naming the sample. So is a sample that
    takes longer than `timeout_s`; its thread is left behind.
    """

    def __init__(
        self,
        source: ItemSource,
        steps: Iterator[list[MicroBatch]],
        *,
        workers: int,
        timeout_s: float,
        bad_samples: BadSamples,
        is_alone: bool = True,
    ) -> None:
        self._source = source
        self._steps = steps
        self._bad = bad_samples
        self._maker = SampleMaker(source, skips=bad_samples.skips, is_alone=is_alone)
        self._timeout_s = timeout_s
        # Without workers one thread makes each sample while the caller waits: only so can one that hangs be noticed.
        self._threads = WorkerThreads(max(1, workers), name="qvl-data")
        self._pending: deque[list[list[_Pending]] | Exception] = deque()
        self._waiting = 0
        # Two samples per worker keep all of them busy; one whole step more hides a slow sample.
        self._ahead = 2 * workers
        self._is_closed = False

    def __next__(self) -> list[Batch]:
        if self._is_closed:
            raise StopIteration
        try:
            if not self._pending and not self._submit():
                self.close()
                raise StopIteration
            step = self._pending.popleft()
            if isinstance(step, Exception):
                raise step
            self._waiting -= _samples(step)
            while self._waiting < self._ahead and self._submit():
                pass
            return [self._collect(micro_batch) for micro_batch in step]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> BatchIterator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop: drop what is prepared; a sample in the middle of being made is waited for, but not for long."""
        if not self._is_closed:
            self._is_closed = True
            self._pending.clear()
            self._threads.close()
            self._source.close()

    def _submit(self) -> bool:
        """Take the next step's samples into work; False at the end, which only validation has."""
        if self._pending and isinstance(self._pending[-1], Exception):
            return False
        try:
            groups = next(self._steps, None)
        except Exception as error:
            # A step ahead of its time: the steps before it come first.
            self._pending.append(error)
            return True
        if groups is None:
            return False
        step = [[self._start(item) for item in group] for group in groups]
        self._pending.append(step)
        self._waiting += _samples(step)
        return True

    def _start(self, taken: TakenItem) -> _Pending:
        places = range(len(taken.item.samples))
        return _Pending(
            item=taken, tasks=tuple(self._threads.submit(partial(self._maker.make, taken.item, i)) for i in places)
        )

    def _collect(self, micro_batch: Sequence[_Pending]) -> Batch:
        samples: list[Sample] = []
        is_learned = True
        for pending in micro_batch:
            for found in pending.item.met:
                self._bad.meet(found)
            before = len(samples)
            for task in pending.tasks:
                made = task.result(self._timeout_s)
                for found in made.met:
                    self._bad.meet(found)
                if made.sample is not None:
                    samples.append(made.sample if not made.met else pending.item.stand_in(made.sample))
            if len(samples) == before:
                raise self._nothing_left(pending)
            is_learned &= pending.item.is_learned
        batch = collate(samples, self._source.spec)
        return batch if is_learned else replace(batch, labels=np.full_like(batch.labels, IGNORE))

    def _nothing_left(self, pending: _Pending) -> DataError:
        item = pending.item.item
        where = self._source.where(item.samples[0])
        message = f"it cannot be used (position {item.position:,} of the order), nor can any that may stand in for it"
        return DataError(Problem(where=where, message=message, fix="qvl data check RECIPE lists what is wrong"))


def _samples(step: list[list[_Pending]]) -> int:
    return sum(len(pending.tasks) for group in step for pending in group)


def batches(
    data: PreparedData,
    *,
    recipe: Recipe,
    consumed_samples: int = 0,
    dp_rank: int = 0,
    dp_size: int = 1,
    bad_samples: BadSamples | None = None,
) -> BatchIterator:
    """Give the endless steps of one data-parallel rank from position `consumed_samples` of the order.

    Positions count items: samples, or packs with `data.packing`. A step has global_batch / (micro_batch x dp_size)
    micro batches per rank; after n steps the position is n x global_batch. Which samples form a step does not depend on
    dp_size: micro batch i of the step goes to rank i mod dp_size, or as `data.balance` deals them. tp and pp peers use
    the same dp_rank and get the same batches. `bad_samples` is told what cannot be used; None keeps that to the log.
    """
    train = recipe.train
    assert train is not None, "batches() is for training recipes"
    share = train.micro_batch * dp_size
    assert 0 <= dp_rank < dp_size, (dp_rank, dp_size)
    assert train.global_batch % share == 0, (train.global_batch, train.micro_batch, dp_size)
    source = stream_items(data.train, recipe) if isinstance(data.train, Stream) else indexed_items(data.train, recipe)
    is_balanced = recipe.data.balance == "length"
    steps = _steps(source, consumed_samples, train.global_batch, train.micro_batch, dp_rank, dp_size, is_balanced)
    return BatchIterator(
        source,
        steps,
        workers=recipe.data.workers,
        timeout_s=recipe.data.sample_timeout_s,
        bad_samples=bad_samples or _bad_samples(recipe),
        is_alone=recipe.parallel.world_size == 1,
    )


def validation_batches(
    data: PreparedData,
    *,
    recipe: Recipe,
    dp_rank: int = 0,
    dp_size: int = 1,
    bad_samples: BadSamples | None = None,
) -> Iterator[Batch]:
    """Give the micro batches of the validation samples once, in file order; nothing if there are none.

    Every rank gets equally many, so that none waits for another: where the samples run out, the last micro batch is
    repeated without labels, which adds nothing to a loss. A bad sample that is skipped is treated so too.
    """
    train, held = recipe.train, data.validation
    assert train is not None, "validation_batches() is for training recipes"
    if held is None:
        return
    source = ValidationItems(held)
    items = [TakenItem(item=item, stands_in_unlearned=True) for item in source.order.items(0, len(held))]
    micro = [items[i : i + train.micro_batch] for i in range(0, len(items), train.micro_batch)]
    unlearned = [replace(item, is_learned=False) for item in micro[-1]]
    micro += [unlearned] * (-len(micro) % dp_size)
    own: list[list[MicroBatch]] = [[micro[i]] for i in range(dp_rank, len(micro), dp_size)]
    iterator = BatchIterator(
        source,
        iter(own),
        workers=recipe.data.workers,
        timeout_s=recipe.data.sample_timeout_s,
        bad_samples=bad_samples or _bad_samples(recipe),
        is_alone=recipe.parallel.world_size == 1,
    )
    # The iterator is closed also when the caller stops half-way and this generator is thrown away.
    with contextlib.closing(iterator) as steps:
        for (batch,) in steps:
            yield batch


def count_validation_batches(data: PreparedData, *, recipe: Recipe, dp_size: int = 1) -> int:
    """Count the micro batches that `validation_batches` gives each rank."""
    assert recipe.train is not None, "validation is for training recipes"
    held = len(data.validation) if data.validation is not None else 0
    return -(-held // (recipe.train.micro_batch * dp_size))


def _bad_samples(recipe: Recipe) -> BadSamples:
    return BadSamples(policy=recipe.data.on_bad_sample, limit=recipe.data.max_bad_samples)


def _steps(
    source: ItemSource,
    position: int,
    global_batch: int,
    micro_batch: int,
    dp_rank: int,
    dp_size: int,
    is_balanced: bool,
) -> Iterator[list[MicroBatch]]:
    while True:
        step = source.take(position, global_batch)
        position += global_batch
        if is_balanced:
            dealt = deal_step([taken.item.tokens for taken in step], micro_batch, dp_size)[dp_rank]
        else:
            groups = [list(range(i, i + micro_batch)) for i in range(0, global_batch, micro_batch)]
            dealt = groups[dp_rank::dp_size]
        yield [[step[index] for index in group] for group in dealt]
