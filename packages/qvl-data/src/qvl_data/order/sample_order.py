"""Which sample is used at which position: a function of seed, epoch and position, and of nothing else.

An epoch draws round(weight x samples) samples of each source, at least 1, and shuffles them together. Weight 2 uses
each sample twice an epoch, weight 0.5 uses half of the source in one epoch and the other half in the next: a source is
walked through in shuffled rounds, and a round ends only when each of its samples was used once.

Random bits are Philox's raw output, sorted: numpy promises that stream for all versions, but not that of `shuffle`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MIXING = 0  # Purposes of random numbers, so that no two share a stream.
_ROUND = 1
_HOLD_OUT = 2


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
        pairs = zip(self.counts, self.weights, strict=True)
        return tuple(max(1, round(count * weight)) if count else 0 for count, weight in pairs)

    @property
    def epoch_length(self) -> int:
        """Samples in one epoch."""
        return sum(self.draws)

    def epoch(self, number: int) -> NDArray[np.int64]:
        """Give the sample indexes of an epoch, in order, int64 [epoch_length]."""
        parts = []
        first = 0
        for source, (count, draws) in enumerate(zip(self.counts, self.draws, strict=True)):
            if draws:
                parts.append(first + self._walk(source, count, number * draws, draws))
            first += count
        drawn = np.concatenate(parts)
        return drawn[shuffled(len(drawn), self.seed, _MIXING, number)]

    def _walk(self, source: int, count: int, start: int, draws: int) -> NDArray[np.int64]:
        """Give `draws` indexes of one source from position `start` of its endless shuffled rounds."""
        parts = []
        position = start
        while position < start + draws:
            round_number, offset = divmod(position, count)
            taken = min(count - offset, start + draws - position)
            parts.append(shuffled(count, self.seed, _ROUND, source, round_number)[offset : offset + taken])
            position += taken
        return np.concatenate(parts)


def shuffled(count: int, seed: int, *purpose: int) -> NDArray[np.int64]:
    """Give a permutation of 0 to count - 1, int64, that depends on the arguments only."""
    bits = np.random.Philox(np.random.SeedSequence([seed, *purpose]))
    return np.argsort(bits.random_raw(count), kind="stable").astype(np.int64)


def held_out(count: int, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Mark round(fraction x count) of `count` samples, at least 1, bool [count]."""
    marks = np.zeros(count, bool)
    marks[shuffled(count, seed, _HOLD_OUT)[: max(1, round(fraction * count))]] = True
    return marks
