"""The product of two low-rank factors, with one answer for every machine, library, number of threads and block size.

A matrix library adds in an order that depends on all of these, so its float32 results differ in the last bit. Here the
answer is *defined*: products and sums in float64 in the order of the inner index, then one rounding to float32. The
library's float64 result is used wherever its rounding cannot differ from that; the few others are added up one by one.

R rows, K inner index (rank), C columns
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class RightFactor:
    """The factor A of B @ A, prepared once for all rows of B."""

    def __init__(self, a_KC: NDArray[np.float32]) -> None:
        self.a_KC = a_KC.astype(np.float64)
        self.longest_column = float(np.sqrt(np.einsum("kc,kc->c", self.a_KC, self.a_KC).max(initial=0.0)))


def product(b_RK: NDArray[np.float32], right: RightFactor) -> NDArray[np.float32]:
    """Give float32(sum over k of B[r, k] * A[k, c], added in float64 from k = 0 on)."""
    left_RK = b_RK.astype(np.float64)
    any_order_RC = left_RK @ right.a_KC
    # Each product is exact in float64 (24 + 24 bits), and any order of adding K of them is within K * 2^-53 times the
    # sum of their sizes, which is at most the product of the lengths of row and column (Cauchy-Schwarz). Two orders
    # differ by at most twice that; the slack is twice as much again, for the rounding of the lengths themselves.
    lengths_R = np.sqrt(np.einsum("rk,rk->r", left_RK, left_RK))
    slack_R1 = (lengths_R * (right.longest_column * (b_RK.shape[1] + 2) * 2.0**-51))[:, None]
    # Too large for float32 becomes infinite, which the caller counts.
    with np.errstate(over="ignore"):
        low_RC = (any_order_RC - slack_R1).astype(np.float32)
        high_RC = (any_order_RC + slack_R1).astype(np.float32)
        unsure = np.nonzero(low_RC != high_RC)
        if unsure[0].size:
            low_RC[unsure] = _in_order(left_RK, right.a_KC, *unsure).astype(np.float32)
    return low_RC


def _in_order(
    left_RK: NDArray[np.float64], a_KC: NDArray[np.float64], rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> NDArray[np.float64]:
    total = np.zeros(rows.size, np.float64)
    for k in range(a_KC.shape[0]):
        total += left_RK[rows, k] * a_KC[k, columns]
    return total
