"""Cut a whole tensor into one tensor rank's part, and join the parts: the shard rules of the parameter table.

Works on numpy arrays of any dtype, and moves elements only: no arithmetic, so a round trip is exact to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvl_core.params import ShardRule


def cut(whole: NDArray[Any], shard: ShardRule, *, tp: int, rank: int) -> NDArray[Any]:
    """Give the part of tensor rank `rank` of `tp`, as a view where that is possible."""
    if shard == "replicate" or tp == 1:
        return whole
    if shard == "fused_thirds":
        # Each of q, k and v is cut by heads, so that a rank holds matching heads of all three.
        thirds = np.split(whole, 3, axis=0)
        return np.concatenate([np.split(third, tp, axis=0)[rank] for third in thirds], axis=0)
    return np.split(whole, tp, axis=_axis(shard))[rank]


def join(parts: Sequence[NDArray[Any]], shard: ShardRule) -> NDArray[Any]:
    """Give the whole tensor from the parts of all tensor ranks, in rank order; of a replicate, the first copy."""
    if shard == "replicate" or len(parts) == 1:
        return parts[0]
    if shard == "fused_thirds":
        thirds = [np.split(part, 3, axis=0) for part in parts]
        return np.concatenate([rank[i] for i in range(3) for rank in thirds], axis=0)
    return np.concatenate(parts, axis=_axis(shard))


def _axis(shard: ShardRule) -> int:
    return 1 if shard == "row" else 0
