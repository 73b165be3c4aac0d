"""Long series for small drawings: thinned without losing a peak, smoothed without moving one, cut where rows lack."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

# Points of one drawn line: enough for a desk.
MOST_POINTS = 700
MOST_CUTS = 200
# Below so many rows the line itself is smooth enough to be read.
_SMOOTH_FROM = 30
_WINDOW_SHARE = 40
# Distances of rows on either side of one that tell what is usual there.
_NEAR = 5


@dataclass(frozen=True, kw_only=True)
class Series:
    """Values over steps: int64 [N] ascending and float64 [N]; `every` is how many steps a row stands for by now."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    every: int = 0

    def __len__(self) -> int:
        return len(self.steps)

    def pieces(self) -> Iterator[Series]:
        """Give the parts without a hole. Of very many holes only the widest ones cut."""
        cuts = holes(self.steps, self.every)[0] + 1
        if len(cuts) > MOST_CUTS:
            gaps = np.diff(self.steps)
            cuts = np.sort(cuts[np.argsort(-gaps[cuts - 1], kind="stable")[:MOST_CUTS]])
        for steps, values in zip(np.split(self.steps, cuts), np.split(self.values, cuts), strict=True):
            if len(steps):
                yield Series(steps=steps, values=values)

    def thinned(self, most: int = MOST_POINTS) -> Series:
        """Give at most about so many points: of each stretch its lowest and its highest one."""
        if len(self) <= most:
            return self
        edges = np.linspace(0, len(self), most // 2 + 1).astype(np.int64)
        kept = {0, len(self) - 1}
        for first, after in pairwise(edges):
            part = self.values[first:after]
            kept |= {int(first + part.argmin()), int(first + part.argmax())}
        places = np.array(sorted(kept))
        return Series(steps=self.steps[places], values=self.values[places])

    def drawn(self) -> Iterator[Series]:
        """Give the parts without a hole, together of about so many points as a drawing shows."""
        for piece in self.pieces():
            yield piece.thinned(max(2, MOST_POINTS * len(piece) // len(self)))

    def smoothed(self) -> Series | None:
        """Give the mean over a window around each row, a fortieth of all wide; None for a short series.

        No window reaches over a hole.
        """
        if len(self) < _SMOOTH_FROM:
            return None
        half = max(2, len(self) // _WINDOW_SHARE // 2)
        means = [_means(piece.values, half) for piece in self.pieces()]
        return replace(self, values=np.concatenate(means))

    def stands_for(self) -> NDArray[np.int64]:
        """Give how many steps each row stands for, int64 [N]: those since the row before it."""
        if not len(self):
            return self.steps
        before = max(0, int(self.steps[0]) - first_distance(self.steps))
        return np.diff(self.steps, prepend=before)

    def summed(self) -> Series:
        """Add up from the first row on, each row for the steps that it stands for."""
        return replace(self, values=np.cumsum(self.values * self.stands_for()))


def holes(steps: NDArray[np.int64], every: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Give (places, usual before, usual after) of the holes in ascending steps: between `place` and the one after it.

    A hole is at least twice as wide as what is usual on either side of it: where a run goes on with another distance
    of its rows, there is none. Usual is the median of five distances; at an end, the only one that is beside it, and
    at the last row what is stated as `every`: of a new distance there is no second one yet.
    """
    gaps = np.diff(steps)
    # The rest costs more than all else where a run is very long, and is for nothing where all rows are there.
    if len(gaps) < 2 or gaps.max() < 2 * gaps.min():
        nothing = np.empty(0, np.int64)
        return nothing, nothing, nothing
    before, after = _usual_before(gaps), _usual_before(gaps[::-1])[::-1]
    before[0], after[-1] = gaps[1], max(gaps[-2], every)
    places = np.flatnonzero(gaps >= 2 * np.maximum(before, after))
    return places, before[places], after[places]


def _usual_before(gaps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give the lower median of up to five distances before each one; the first has none and gets the largest number."""
    none = np.iinfo(np.int64).max // 2
    padded = np.concatenate([np.full(_NEAR, none), gaps[:-1]])
    windows = np.sort(np.lib.stride_tricks.sliding_window_view(padded, _NEAR), axis=1)
    counts = np.minimum(np.arange(len(gaps)), _NEAR)
    return windows[np.arange(len(gaps)), np.maximum(0, counts - 1) // 2]


def _means(values: NDArray[np.float64], half: int) -> NDArray[np.float64]:
    total = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(0, np.arange(len(values)) - half)
    after = np.minimum(len(values), np.arange(len(values)) + half + 1)
    return (total[after] - total[first]) / (after - first)


def first_distance(steps: NDArray[np.int64]) -> int:
    """Give how many steps the first row may stand for: the widest distance of the first rows.

    A run may have gone on with another `train.log.every`, and its last row may come sooner. Of two rows the first one
    stands for all before it.
    """
    if not len(steps):
        return 0
    return int(np.diff(steps[: _NEAR + 1]).max()) if len(steps) > 2 else int(steps[0])
