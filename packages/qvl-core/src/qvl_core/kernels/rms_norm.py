"""Root-mean-square normalisation. Shapes: D model."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, mint, ops


def rms_norm_reference(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) * weight over the last dim, in the dtype of x."""
    # The mean of squares of half-precision numbers overflows fp16 and loses most digits in bf16: fp32 inside.
    x32 = x if x.dtype == ms.float32 else x.astype(ms.float32)
    scale = mint.rsqrt(mint.mean(x32 * x32, -1, keepdim=True) + eps)
    y = x32 * scale
    # The published model rounds to the input dtype before it multiplies by the weight; so do we.
    return weight_D * (y if x.dtype == ms.float32 else y.astype(x.dtype))


def rms_norm_ascend(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Return the same with the fused operation (fp16, bf16 or fp32, weight of the same dtype). Not verified.

    MindSpore 2.10 announces another signature for a later version; unpacking the pair fails there instead of taking
    the first row for the result.
    """
    y, _inverse_root = ops.rms_norm(x, weight_D, eps)
    return y
