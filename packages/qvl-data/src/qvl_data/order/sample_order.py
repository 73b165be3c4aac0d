"""Which sample is used at which position: a function of seed, epoch and position, and of nothing else.

An epoch draws round(weight x samples) samples of each source, at least 1, and shuffles them together. Weight 2 uses
each sample twice an epoch, weight 0.5 uses half of the source in one epoch and the other half in the next: a source is
walked through in shuffled rounds, and a round ends only when each of its samples was used once.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qvl_data.order.randomness import Purpose, shuffled


@dataclass(frozen=True, kw_only=True)
class SampleOrder:
    """The order of samples of several sources; sample indexes run through the sources one after another.

    `counts` and `weights` have one entry per source.
    """

    counts: tuple[int, ...]
    weights: tuple[float, ...]
    seed: int

    @property
    def draws(self) -> tuple[int, ...]:
        """Samples drawn of each source in one epoch."""
        return draws_per_epoch(self.counts, self.weights)

    @property
    def epoch_length(self) -> int:
        """Samples in one epoch."""
        return sum(self.draws)

    def epoch(self, number: int) -> NDArray[np.int64]:
        """Give the sample indexes of an epoch, in order, int64 [epoch_length]."""
        return self.draws_of_epoch(number)[0]

    def draws_of_epoch(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Give the sample indexes of an epoch, in order, and the round of its source in which each is drawn.

        Both int64 [epoch_length]; rounds count from 0 and go on from epoch to epoch.
        """
        indexes, rounds = [], []
        first = 0
        for source, (count, draws) in enumerate(zip(self.counts, self.draws, strict=True)):
            if draws:
                indexes.append(first + self._walk(source, count, number * draws, draws))
                rounds.append(np.arange(number * draws, (number + 1) * draws, dtype=np.int64) // count)
            first += count
        mixing = shuffled(self.epoch_length, self.seed, Purpose.MIXING, number)
        return np.concatenate(indexes)[mixing], np.concatenate(rounds)[mixing]

    def _walk(self, source: int, count: int, start: int, draws: int) -> NDArray[np.int64]:
        """Give `draws` indexes of one source from position `start` of its endless shuffled rounds."""
        parts = []
        position = start
        while position < start + draws:
            round_number, offset = divmod(position, count)
            taken = min(count - offset, start + draws - position)
            parts.append(shuffled(count, self.seed, Purpose.ROUND, source, round_number)[offset : offset + taken])
            position += taken
        return np.concatenate(parts)


class EndlessOrder:
    """An order read from any position on, epoch after epoch. Only the epochs that are touched are computed.

    The last two are kept, so that reading on costs nothing. Not for several threads.
    """

    _KEPT = 2

    def __init__(self, order: SampleOrder) -> None:
        self._order = order
        self._epochs: OrderedDict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = OrderedDict()

    @property
    def epoch_length(self) -> int:
        """Samples in one epoch."""
        return self._order.epoch_length

    def at(self, position: int, count: int) -> NDArray[np.int64]:
        """Give the sample indexes at `count` positions from `position` on, int64 [count]."""
        return self.draws_at(position, count)[0]

    def draws_at(self, position: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Give the sample indexes as `at` does, and the round of its source in which each is drawn, int64 [count]."""
        parts = []
        end = position + count
        while position < end:
            epoch, offset = divmod(position, self._order.epoch_length)
            taken = min(self._order.epoch_length - offset, end - position)
            parts.append(tuple(column[offset : offset + taken] for column in self._epoch(epoch)))
            position += taken
        indexes, rounds = zip(*parts, strict=True)
        return np.concatenate(indexes), np.concatenate(rounds)

    def _epoch(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if number not in self._epochs:
            while len(self._epochs) >= self._KEPT:
                self._epochs.popitem(last=False)
            self._epochs[number] = self._order.draws_of_epoch(number)
        return self._epochs[number]


def draws_per_epoch(counts: tuple[int, ...], weights: tuple[float, ...]) -> tuple[int, ...]:
    """Give how many samples of each source an epoch draws: round(weight x samples), at least 1 if there are any."""
    return tuple(max(1, round(count * weight)) if count else 0 for count, weight in zip(counts, weights, strict=True))


def held_out(count: int, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Mark round(fraction x count) of `count` samples, at least 1, bool [count]."""
    marks = np.zeros(count, bool)
    marks[shuffled(count, seed, Purpose.HOLD_OUT)[: max(1, round(fraction * count))]] = True
    return marks
