"""Random numbers that depend on their arguments only, on every machine and in every version of numpy.

Random bits are Philox's raw output, sorted or reduced: numpy promises that stream for all versions, but not that of
`shuffle`.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Purpose(IntEnum):
    """What random numbers are for, so that no two share a stream. A number must never change: resumed runs use it."""

    MIXING = 0
    ROUND = 1
    HOLD_OUT = 2
    DEAL = 3
    SUBSTITUTE = 4
    STREAM_BLOCKS = 5
    STREAM_ROWS = 6
    STREAM_MIXING = 7
    STREAM_PACKS = 8


def shuffled(count: int, seed: int, *purpose: int) -> NDArray[np.int64]:
    """Give a permutation of 0 to count - 1, int64, that depends on the arguments only."""
    bits = np.random.Philox(np.random.SeedSequence([seed, *purpose]))
    return np.argsort(bits.random_raw(count), kind="stable").astype(np.int64)


def drawn(bound: int, seed: int, *purpose: int) -> int:
    """Give a number from 0 to bound - 1 that depends on the arguments only."""
    return int(np.random.Philox(np.random.SeedSequence([seed, *purpose])).random_raw()) % bound
