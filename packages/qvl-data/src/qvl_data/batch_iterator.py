"""Steps of micro batches in a fixed order, prepared ahead by threads.

Threads and not processes: decoding, resizing and tokenising release the interpreter lock, nothing is copied between
processes, and a fork under a loaded MindSpore can hang.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from qvl_core.batch import IGNORE, Batch
from qvl_core.errors import QvlError, RunError

from qvl_data.dataset import Dataset, PreparedData
from qvl_data.micro_batch import collate
from qvl_data.order.sample_order import SampleOrder
from qvl_data.samples import Sample

if TYPE_CHECKING:
    from qvl_core.recipe.schema import Recipe


class BatchIterator(Iterator[list[Batch]]):
    """Steps, each the micro batches of one rank; for training they never end.

    Close it, or use it in a `with` block, to stop its threads. An exception in a thread is raised by `next` at the
    sample's place in the order: a DataError as it is, anything else as RunError naming the sample.
    """

    def __init__(self, dataset: Dataset, groups: Iterator[list[list[int]]], *, workers: int) -> None:
        self._dataset = dataset
        self._groups = groups
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="qvl-data") if workers else None
        self._pending: deque[list[list[Callable[[], Sample]]]] = deque()
        self._waiting = 0
        # Two samples per worker keep all of them busy; one whole step more hides a slow sample.
        self._ahead = 2 * workers
        self._is_closed = False

    def __next__(self) -> list[Batch]:
        if self._is_closed:
            raise StopIteration
        if not self._pending and not self._submit():
            self.close()
            raise StopIteration
        groups = self._pending.popleft()
        self._waiting -= sum(len(group) for group in groups)
        while self._pool is not None and self._waiting < self._ahead and self._submit():
            pass
        try:
            return [collate([take() for take in group], self._dataset.processor.spec) for group in groups]
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
        """Stop: drop what is prepared, wait for the samples that threads are in the middle of."""
        self._is_closed = True
        self._pending.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _submit(self) -> bool:
        """Take the next step's samples into work; False at the end, which only validation has."""
        groups = next(self._groups, None)
        if groups is None:
            return False
        self._pending.append([[self._task(index) for index in group] for group in groups])
        self._waiting += sum(len(group) for group in groups)
        return True

    def _task(self, index: int) -> Callable[[], Sample]:
        if self._pool is None:
            return lambda: self._make(index)
        future: Future[Sample] = self._pool.submit(self._make, index)
        return future.result

    def _make(self, index: int) -> Sample:
        try:
            return self._dataset.sample(index)
        except QvlError:
            raise
        except Exception as error:
            where = self._dataset.where(index)
            raise RunError(f"{where}: the sample cannot be made: {type(error).__name__}: {error}") from error


def batches(
    data: PreparedData, *, recipe: Recipe, consumed_samples: int = 0, dp_rank: int = 0, dp_size: int = 1
) -> BatchIterator:
    """Give the endless steps of one data-parallel rank from position `consumed_samples` of the order.

    A step has global_batch / (micro_batch x dp_size) micro batches per rank; after n steps the position is
    n x global_batch. Which samples form a step does not depend on dp_size: micro batch i of the step goes to rank
    i mod dp_size. tp and pp peers use the same dp_rank and get the same batches.
    """
    train = recipe.train
    assert train is not None, "batches() is for training recipes"
    share = train.micro_batch * dp_size
    assert 0 <= dp_rank < dp_size, (dp_rank, dp_size)
    assert train.global_batch % share == 0, (train.global_batch, train.micro_batch, dp_size)
    positions = _positions(data.train.order(train.seed), consumed_samples)
    steps = _steps(positions, train.global_batch, train.micro_batch, dp_rank, dp_size)
    return BatchIterator(data.train, steps, workers=recipe.data.workers)


def validation_batches(data: PreparedData, *, recipe: Recipe, dp_rank: int = 0, dp_size: int = 1) -> Iterator[Batch]:
    """Give the micro batches of the validation samples once, in file order; nothing if there are none.

    Every rank gets equally many, so that none waits for another: where the samples run out, the last micro batch is
    repeated without labels, which adds nothing to a loss.
    """
    train, held = recipe.train, data.validation
    assert train is not None, "validation_batches() is for training recipes"
    if held is None:
        return
    indexes = list(range(len(held)))
    micro = [indexes[i : i + train.micro_batch] for i in range(0, len(indexes), train.micro_batch)]
    real = len(micro)
    micro += [micro[-1]] * (-real % dp_size)
    own = [[micro[i]] for i in range(dp_rank, len(micro), dp_size)]
    # The iterator is closed also when the caller stops half-way and this generator is thrown away.
    with contextlib.closing(BatchIterator(held, iter(own), workers=recipe.data.workers)) as steps:
        for number, (batch,) in enumerate(steps):
            is_repeated = dp_rank + number * dp_size >= real
            yield replace(batch, labels=np.full_like(batch.labels, IGNORE)) if is_repeated else batch


def count_validation_batches(data: PreparedData, *, recipe: Recipe, dp_size: int = 1) -> int:
    """Count the micro batches that `validation_batches` gives each rank."""
    assert recipe.train is not None, "validation is for training recipes"
    held = len(data.validation) if data.validation is not None else 0
    return -(-held // (recipe.train.micro_batch * dp_size))


def _positions(order: SampleOrder, consumed_samples: int) -> Iterator[int]:
    """Give sample indexes without end from a position on; only the current epoch is held."""
    epoch, offset = divmod(consumed_samples, order.epoch_length)
    while True:
        yield from order.epoch(epoch)[offset:].tolist()
        epoch, offset = epoch + 1, 0


def _steps(
    positions: Iterator[int], global_batch: int, micro_batch: int, dp_rank: int, dp_size: int
) -> Iterator[list[list[int]]]:
    while True:
        step = list(islice(positions, global_batch))
        groups = [step[i : i + micro_batch] for i in range(0, global_batch, micro_batch)]
        yield groups[dp_rank::dp_size]
