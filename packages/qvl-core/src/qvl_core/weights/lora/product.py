"""The product of two low-rank factors, with one answer for every machine, library, number of threads and block size.

A matrix library adds in an order that depends on all of these, so its float32 results differ in the last bit. Here the
answer is *defined*: products and sums in float64 in the order of the inner index, then one rounding to float32. The
library's float64 result is used wherever its rounding cannot differ from that; the few others are added up one by one.

R rows, K inner index (rank), C columns
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# A call this small stays on the caller's thread in OpenBLAS, which otherwise wakes threads of its own for each tile and
# makes callers wait for each other; we have threads already.
_CALL = 64 * 256 * 16
_MOST_PRODUCTS = 256 * 1024


class RightFactor:
    """The factor A of B @ A, prepared once for all rows of B."""

    def __init__(self, a_KC: NDArray[np.float32]) -> None:
        self.a_KC = a_KC.astype(np.float64)
        self.longest_column = float(np.sqrt(np.einsum("kc,kc->c", self.a_KC, self.a_KC).max(initial=0.0)))


class TileProduct:
    """Computes tiles of B @ A. Has buffers of its own, so each thread needs one: fresh memory costs more than sums."""

    def __init__(self, elements: int) -> None:
        self._sum = np.empty(elements, np.float64)
        self._part = np.empty(elements, np.float64)

    def __call__(
        self, b_RK: NDArray[np.float32], right: RightFactor, columns: slice = slice(None)
    ) -> NDArray[np.float32]:
        """Give float32(sum over k of B[r, k] * A[k, c], added in float64 from k = 0 on); zeros have either sign."""
        left_RK, a_KC = b_RK.astype(np.float64), right.a_KC[:, columns]
        shape = len(left_RK), a_KC.shape[1]
        any_order_RC = self._sum[: shape[0] * shape[1]].reshape(shape)
        part_RC = self._part[: shape[0] * shape[1]].reshape(shape)
        _multiply(left_RK, a_KC, any_order_RC, part_RC)
        # Each product is exact in float64 (24 + 24 bits), and any order of adding K of them is within K * 2^-53 times
        # the sum of their sizes, which is at most the product of the lengths of row and column (Cauchy-Schwarz). Two
        # orders differ by at most twice that; the slack is twice as much again, for the rounding of the lengths.
        lengths_R = np.sqrt(np.einsum("rk,rk->r", left_RK, left_RK))
        slack_R1 = (lengths_R * (right.longest_column * (len(a_KC) + 2) * 2.0**-51))[:, None]
        # Too large for float32 becomes infinite, which the caller counts.
        with np.errstate(over="ignore"):
            low_RC = np.subtract(any_order_RC, slack_R1, out=part_RC).astype(np.float32)
            high_RC = np.add(any_order_RC, slack_R1, out=part_RC).astype(np.float32)
            unsure = low_RC != high_RC
            if unsure.any():
                rows, of_tile = np.nonzero(unsure)
                low_RC[unsure] = _in_order(left_RK, a_KC, rows, of_tile).astype(np.float32)
        return low_RC


def _multiply(
    left_RK: NDArray[np.float64], a_KC: NDArray[np.float64], out_RC: NDArray[np.float64], part_RC: NDArray[np.float64]
) -> None:
    step = max(1, _CALL // max(1, out_RC.size))
    np.matmul(left_RK[:, :step], a_KC[:step], out=out_RC)
    for start in range(step, len(a_KC), step):
        np.matmul(left_RK[:, start : start + step], a_KC[start : start + step], out=part_RC)
        out_RC += part_RC


def _in_order(
    left_RK: NDArray[np.float64], a_KC: NDArray[np.float64], rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> NDArray[np.float64]:
    total = np.empty(rows.size, np.float64)
    step = max(1, _MOST_PRODUCTS // max(1, len(a_KC)))
    for start in range(0, rows.size, step):
        some = slice(start, start + step)
        products = left_RK[rows[some]] * a_KC[:, columns[some]].T
        # `accumulate` adds one by one, in order; `sum` would add in pairs.
        total[some] = np.add.accumulate(products, axis=1)[:, -1]
    return total
