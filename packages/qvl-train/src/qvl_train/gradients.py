"""Sums and norms over a list of gradients. fp32 whatever the model computes in."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mindspore as ms
from mindspore import Tensor, mint, ops


def accumulate(total: list[Tensor] | None, gradients: Sequence[Tensor]) -> list[Tensor]:
    """Add one micro batch's gradients to the running fp32 sum; never in place (a silent no-op on CPU)."""
    if total is None:
        return [gradient.astype(ms.float32) for gradient in gradients]
    return [ops.add(old, new.astype(ms.float32)) for old, new in zip(total, gradients, strict=True)]


def global_norm(gradients: Sequence[Tensor]) -> float:
    """Give the Euclidean norm over all tensors; NaN or infinity where any element is not finite."""
    if not gradients:
        return 0.0
    squares = ops.stack([mint.sum(gradient * gradient) for gradient in gradients]).asnumpy()
    # One host sum in fp64: the order is fixed, so equal gradients give an equal norm to the bit.
    return math.sqrt(float(squares.astype("float64").sum()))


def clip_scale(norm: float, limit: float) -> float:
    """Give the factor that brings `norm` to at most `limit`; `limit` 0 switches clipping off.

    Pascanu et al. (arXiv 1211.5063), algorithm 1. The small constant is the one of `torch.nn.utils.clip_grad_norm_`.
    """
    if limit == 0.0 or norm <= limit:
        return 1.0
    return limit / (norm + 1e-6)
