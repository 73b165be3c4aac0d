"""Arrays of sample lengths to the figures of a report. Pure; lengths are in tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qvl_data.inspection.report import LengthTotals


def length_totals(tokens: NDArray[np.integer]) -> LengthTotals | None:
    """Give the totals of int [N] lengths; None without samples."""
    if not len(tokens):
        return None
    median, p90, p99 = (int(value) for value in np.percentile(tokens, (50, 90, 99), method="inverted_cdf"))
    return LengthTotals(
        shortest=int(tokens.min()),
        mean=float(tokens.mean()),
        median=median,
        p90=p90,
        p99=p99,
        longest=int(tokens.max()),
    )


def longest_first(tokens: NDArray[np.integer], count: int) -> list[int]:
    """Give the indexes of the `count` longest samples, longest first, earlier ones before equal ones."""
    return np.argsort(-tokens.astype(np.int64), kind="stable")[:count].tolist()
