"""Which row of which source is used when, for data of which nothing is known but blocks of rows.

A source is walked through in endless rounds. In each its blocks are shuffled, neighbours in that order form windows of
about `window` rows, and the rows of a window are shuffled: so a row is near the others of its block, and no more than a
window has to be read to know where to go on. Sources are mixed evenly by their draws per epoch, which are those of
`sample_order`. All of it is a function of (seed, position).

Row numbers run through the sources one after another.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from qvl_data.order.randomness import Purpose, drawn, shuffled
from qvl_data.order.sample_order import draws_per_epoch

K = TypeVar("K")
V = TypeVar("V")
_SEGMENT = 4096
_KEPT = 3


class _Kept(Generic[K, V]):
    """The last few values of a function. Not for several threads."""

    def __init__(self, make: Callable[[K], V]) -> None:
        self._make = make
        self._values: OrderedDict[K, V] = OrderedDict()

    def __getitem__(self, key: K) -> V:
        if key not in self._values:
            found = self._make(key)
            while len(self._values) >= _KEPT:
                self._values.popitem(last=False)
            self._values[key] = found
        self._values.move_to_end(key)
        return self._values[key]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Round:
    """One walk through the blocks of a source: the blocks in their order, and where windows begin."""

    blocks: NDArray[np.int64]  # [B]
    window_blocks: NDArray[np.int64]  # [W + 1] of `blocks`
    window_rows: NDArray[np.int64]  # [W + 1] rows before each window


class SourceWalk:
    """The endless shuffled rounds of one source. Safe to use from several threads."""

    def __init__(self, *, number: int, block_rows: Sequence[int], window: int, seed: int) -> None:
        """`block_rows` are the rows of each block, `number` tells the source from others."""
        self._rows_of = np.asarray(block_rows, np.int64)
        self._first_row = np.concatenate([[0], np.cumsum(self._rows_of)])
        self.rows = int(self._first_row[-1])
        self._window, self._seed, self._number = window, seed, number
        self._lock = Lock()
        self._rounds = _Kept(self._plan)
        self._windows = _Kept(self._shuffled_window)

    def row(self, draw: int) -> int:
        """Give the row of the source that is drawn at position `draw` of its rounds."""
        window, offset = self._find(draw)
        return int(window[offset])

    def window(self, draw: int) -> NDArray[np.int64]:
        """Give all rows of the window that position `draw` lies in, in the order in which they are drawn."""
        return self._find(draw)[0]

    def _find(self, draw: int) -> tuple[NDArray[np.int64], int]:
        number, offset = divmod(draw, self.rows)
        with self._lock:
            plan = self._rounds[number]
            at = int(np.searchsorted(plan.window_rows, offset, side="right")) - 1
            window = self._windows[number, at]
        return window, offset - int(plan.window_rows[at])

    def _plan(self, number: int) -> _Round:
        blocks = shuffled(len(self._rows_of), self._seed, Purpose.STREAM_BLOCKS, self._number, number)
        before = np.cumsum(self._rows_of[blocks]) - self._rows_of[blocks]
        starts = np.flatnonzero(np.diff(before // self._window, prepend=-1))
        return _Round(
            blocks=blocks,
            window_blocks=np.append(starts, len(blocks)),
            window_rows=np.append(before[starts], self.rows),
        )

    def _shuffled_window(self, key: tuple[int, int]) -> NDArray[np.int64]:
        number, at = key
        plan = self._rounds[number]
        blocks = plan.blocks[plan.window_blocks[at] : plan.window_blocks[at + 1]]
        rows = np.concatenate([np.arange(self._first_row[block], self._first_row[block + 1]) for block in blocks])
        return rows[shuffled(len(rows), self._seed, Purpose.STREAM_ROWS, self._number, number, at)]


class EvenMix:
    """Which source each position of an epoch is drawn from, and how many of that source were drawn before.

    Draw k of a source with d draws is due at time (k + 1/2) / d of the epoch. Time is cut into segments of about 4096
    draws, within which the sources are shuffled; where a segment begins is known without the segments before it.
    """

    def __init__(self, draws: Sequence[int], seed: int) -> None:
        self.draws = tuple(draws)
        self.length = sum(self.draws)
        self._segments = max(1, -(-self.length // _SEGMENT))
        self._seed = seed
        self._mixed_segments = _Kept(self._mixed)

    def at(self, epoch: int, offset: int) -> tuple[int, int]:
        """Give the source of position `offset` of an epoch, and the number of its draws in the epoch before that."""
        segment = min(self._segments - 1, offset * self._segments // self.length)
        while self._start(segment) > offset:
            segment -= 1
        while self._start(segment + 1) <= offset:
            segment += 1
        sources, numbers = self._mixed_segments[epoch, segment]
        place = offset - self._start(segment)
        return int(sources[place]), int(numbers[place])

    def _before(self, segment: int) -> list[int]:
        """Count the draws of each source that are due before a segment, rounded in whole numbers."""
        return [(2 * segment * draws + self._segments) // (2 * self._segments) for draws in self.draws]

    def _start(self, segment: int) -> int:
        return sum(self._before(segment))

    def _mixed(self, key: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        epoch, segment = key
        first, last = self._before(segment), self._before(segment + 1)
        counts = [after - before for before, after in zip(first, last, strict=True)]
        order = shuffled(sum(counts), self._seed, Purpose.STREAM_MIXING, epoch, segment)
        sources = np.repeat(np.arange(len(counts)), counts)[order]
        numbers = np.empty(len(order), np.int64)
        for source, before in enumerate(first):
            mine = sources == source
            numbers[mine] = before + np.arange(int(mine.sum()))
        return sources, numbers


class StreamOrder:
    """The endless order of the rows of all sources.

    `block_rows` has, for each source, the rows of its blocks. The sources share `window` rows by their draws.
    """

    def __init__(
        self, *, block_rows: Sequence[Sequence[int]], weights: tuple[float, ...], window: int, seed: int
    ) -> None:
        counts = tuple(sum(rows) for rows in block_rows)
        draws = draws_per_epoch(counts, weights)
        self._mix = EvenMix(draws, seed)
        self._seed = seed
        self._first_row = np.concatenate([[0], np.cumsum(counts)])
        self._walks = [
            SourceWalk(number=i, block_rows=rows, window=max(1, window * draws[i] // self.epoch_length), seed=seed)
            for i, rows in enumerate(block_rows)
        ]
        self._lock = Lock()

    @property
    def epoch_length(self) -> int:
        """Rows in one epoch: round(weight x rows) of each source."""
        return self._mix.length

    def row(self, position: int) -> int:
        """Give the number of the row at a position."""
        source, draw = self._draw(position)
        return int(self._first_row[source]) + self._walks[source].row(draw)

    def substitute(self, position: int, attempt: int) -> int | None:
        """Give a row that stands in for the one at a position: others of its window, all of them if need be."""
        source, draw = self._draw(position)
        window = self._walks[source].window(draw)
        if attempt >= len(window):
            return None
        start = drawn(len(window), self._seed, Purpose.SUBSTITUTE, position)
        return int(self._first_row[source]) + int(window[(start + attempt) % len(window)])

    def _draw(self, position: int) -> tuple[int, int]:
        epoch, offset = divmod(position, self.epoch_length)
        with self._lock:
            source, number = self._mix.at(epoch, offset)
        return source, epoch * self._mix.draws[source] + number
