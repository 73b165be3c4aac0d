"""Random numbers that depend on their arguments only, on every machine and in every version of numpy.

Random bits are Philox's raw output, sorted or reduced: numpy promises that stream for all versions, but not that of
`shuffle`.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

_MOST_TIES = 100_000


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
    return order_of(np.random.Philox(np.random.SeedSequence([seed, *purpose])).random_raw(count))


def order_of(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Give what `np.argsort(keys, kind="stable")` gives, for keys that are spread over all 64 bits, in less time.

    Sorting numbers is several times faster than sorting indexes by them: the index takes the place of a key's low bits,
    and the few keys that differ there only are put right.
    """
    width = np.uint64(max(1, (len(keys) - 1).bit_length()))
    low = (np.uint64(1) << width) - np.uint64(1)
    joined = keys & ~low
    joined |= np.arange(len(keys), dtype=np.uint64)
    joined.sort()
    order = (joined & low).astype(np.int64)
    joined >>= width
    same = np.flatnonzero(joined[1:] == joined[:-1])
    if len(same) > _MOST_TIES:
        return np.argsort(keys, kind="stable").astype(np.int64)
    for run in np.split(same, np.flatnonzero(np.diff(same) > 1) + 1):
        if len(run):
            part = slice(run[0], run[-1] + 2)
            order[part] = order[part][np.argsort(keys[order[part]], kind="stable")]
    return order


def drawn(bound: int, seed: int, *purpose: int) -> int:
    """Give a number from 0 to bound - 1 that depends on the arguments only."""
    return int(np.random.Philox(np.random.SeedSequence([seed, *purpose])).random_raw()) % bound
