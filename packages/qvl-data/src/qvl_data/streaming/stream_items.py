"""Streamed rows as items: one row each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from qvl_core.errors import DataError
from qvl_core.specs.model_spec import ModelSpec

from qvl_data.batching.item_source import TakenItem
from qvl_data.batching.worker_threads import Watch, WorkerThreads
from qvl_data.order.items import Item
from qvl_data.order.stream_order import StreamOrder
from qvl_data.samples import Sample
from qvl_data.streaming.row_rules import RowRules
from qvl_data.streaming.rows import Rows


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream:
    """Streamed training data: the rows and what becomes of them. Holds no order and no thread."""

    rows: Rows
    rules: RowRules
    records: int
    weights: tuple[float, ...]
    shuffle_buffer: int
    fingerprint: str
    """Names everything that the samples depend on: files, checkpoint and rules."""

    def order(self, seed: int) -> StreamOrder:
        """Give the order of the rows."""
        return StreamOrder(block_rows=self.rows.block_rows, weights=self.weights, window=self.shuffle_buffer, seed=seed)

    def where(self, number: int) -> str:
        """Give file and line of a row."""
        return self.rows.row(number).where

    def sample(self, number: int) -> Sample:
        """Make the sample of a row. Raises DataError, TooLongError."""
        return self.rules.make(self.rules.plan(self.rows.row(number)))


class RowOrder:
    """Every row is an item; its length is known only when it is planned."""

    def __init__(self, order: StreamOrder) -> None:
        self._order = order

    @property
    def epoch_length(self) -> int:
        """Rows in one epoch."""
        return self._order.epoch_length

    def items(self, position: int, count: int) -> list[Item]:
        """Give the items at `count` positions from `position` on, without lengths."""
        return [Item(position=i, samples=(self._order.row(i),), lengths=()) for i in range(position, position + count)]

    def substitute(self, item: Item, place: int, attempt: int) -> int | None:
        """Give another row of the same window; None when all of them were tried."""
        return self._order.substitute(item.position, attempt)


class StreamItems:
    """Rows in the order of training. With `with_lengths` the rows of a step are planned when it is taken."""

    def __init__(self, stream: Stream, seed: int, *, with_lengths: bool, workers: int, timeout_s: float) -> None:
        self._stream = stream
        self.order = RowOrder(stream.order(seed))
        self.spec: ModelSpec = stream.rules.processor.spec
        self._timeout_s = timeout_s
        self._planners = WorkerThreads(max(1, workers), name="qvl-plan") if with_lengths else None

    def take(self, position: int, count: int) -> list[TakenItem]:
        """Give the items at `count` positions from `position` on."""
        items = self.order.items(position, count)
        if self._planners is None:
            return [TakenItem(item=item) for item in items]
        tasks = [self._planners.submit(partial(self._with_length, item)) for item in items]
        return [TakenItem(item=task.result(self._timeout_s)) for task in tasks]

    def _with_length(self, item: Item, watch: Watch) -> Item:
        """Give the item with its length; 0 for a row that will be replaced when it is made."""
        watch.begin(f"the record at position {item.position:,} of the order")
        row = self._stream.rows.row(item.samples[0])
        watch.begin(row.where)
        try:
            tokens = self._stream.rules.plan(row).tokens
        except DataError:
            tokens = 0
        return Item(position=item.position, samples=item.samples, lengths=(tokens,))

    def sample(self, number: int) -> Sample:
        """Make the sample of a row. Raises DataError, TooLongError."""
        return self._stream.sample(number)

    def where(self, number: int) -> str:
        """Give file and line of a row."""
        return self._stream.where(number)

    def close(self) -> None:
        """Let the threads end."""
        if self._planners is not None:
            self._planners.close()
