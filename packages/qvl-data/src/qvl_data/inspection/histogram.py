"""Bins for lengths, at round numbers, so that an axis can be read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qvl_data.inspection.report import Histogram

_BINS = 32
# How far beyond the limit the axis goes; what is longer shares the last bin.
_REACH = 2.0


def length_histogram(used: NDArray[np.integer], dropped: NDArray[np.integer], limit: int) -> Histogram | None:
    """Sort lengths, both int [any], into at most about 40 bins of one round width; None if there are no lengths.

    The axis starts at 0 and reaches the longest sample, but not beyond twice the limit.
    """
    longest = max(int(used.max(initial=0)), int(dropped.max(initial=0)))
    if not longest:
        return None
    reach = min(longest, max(int(used.max(initial=0)), round(_REACH * limit)))
    width = round_width(reach / _BINS)
    count = reach // width + 1
    edges = np.arange(count + 1, dtype=np.int64) * width
    return Histogram(
        edges=tuple(edges.tolist()),
        used=_counts(used, width, count),
        dropped=_counts(dropped, width, count),
        limit=limit,
        is_open=longest >= int(edges[-1]),
    )


def round_width(wanted: float) -> int:
    """Give the smallest of 1, 2, 5, 10, 20, 50, ... that is at least `wanted`."""
    width = 1
    while True:
        for factor in (1, 2, 5):
            if factor * width >= wanted:
                return factor * width
        width *= 10


def _counts(lengths: NDArray[np.integer], width: int, count: int) -> tuple[int, ...]:
    places = np.minimum(lengths // width, count - 1)
    return tuple(np.bincount(places.astype(np.int64), minlength=count).tolist())
