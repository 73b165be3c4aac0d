"""Root-mean-square normalisation. Shapes: D model."""

from __future__ import annotations

from functools import cache

import mindspore as ms
import numpy as np
from mindspore import Tensor, mint, ops
from mindspore.ops import constexpr

from qvl_core.kernels.announce import warn_once
from qvl_core.kernels.domain import is_outside

_MATMUL = ops.MatMul()
# The page of the operation: "a float number in the range (0, 1]".
_EPSILON = "rms_norm: the fused form (ops.rms_norm) wants an epsilon above 0, at most 1; running the slower reference"


def rms_norm_reference(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) * weight over the last dim, in the dtype of x."""
    # The mean of squares of half-precision numbers overflows fp16 and loses most digits in bf16: fp32 inside.
    x32 = x if x.dtype == ms.float32 else x.astype(ms.float32)
    rows = x32.reshape(-1, x.shape[-1])
    scale = mint.rsqrt(_MATMUL(rows * rows, _averaging(x.shape[-1])) + eps)
    if x.dtype == ms.float32:
        # One product lays scale times weight out: broadcasting either costs five times as much on CPU.
        return (rows * _MATMUL(scale, weight_D.reshape(1, -1))).reshape(x.shape)
    # The published model rounds to the input dtype before it multiplies by the weight; so do we.
    return weight_D * (rows * scale).reshape(x.shape).astype(x.dtype)


@constexpr
@cache
def _averaging(width: int) -> Tensor:
    """Return fp32 [D, 1] of 1 / D: a product with it is the mean, and its gradient no broadcast."""
    return Tensor(np.full((width, 1), 1 / width, np.float32))


def rms_norm_ascend(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Return the same with the fused operation (fp16, bf16 or fp32, weight of the same dtype). Not verified.

    MindSpore 2.10 announces another signature for a later version: the names make the call fail there, instead of
    giving the weight for a shape.
    """
    width = x.shape[-1]
    if is_outside("rms_norm", (x.dtype, weight_D.dtype), (x.size // width if width else 0, width, len(x.shape))):
        return rms_norm_reference(x, weight_D, eps)
    if not (eps > 0.0 and eps <= 1.0):
        warn_once(_EPSILON)
        return rms_norm_reference(x, weight_D, eps)
    y, _inverse_root = ops.rms_norm(x, gamma=weight_D, epsilon=float(eps))
    return y
