"""Rotary position embedding with rotate-half pairing. Shapes: T tokens, N heads, H head size.

The tables hold one cosine and one sine for each token and head dim.
"""

from __future__ import annotations

from functools import cache

import mindspore as ms
import numpy as np
from mindspore import Tensor, mint, ops
from mindspore.ops import constexpr

from qvl_core.kernels.domain import is_outside

_MATMUL = ops.MatMul()


def rope_reference(x_TNH: Tensor, cos_TH: Tensor, sin_TH: Tensor) -> Tensor:
    """Return x rotated by its token's angles: x * cos + rotate_half(x) * sin, in the dtype of x."""
    tokens, heads, size = x_TNH.shape
    # fp32 inside: at position 30 000 a bf16 angle is off by whole turns.
    x32 = x_TNH if x_TNH.dtype == ms.float32 else x_TNH.astype(ms.float32)
    # On CPU slices inside a row and broadcast factors cost ten times the multiplications; these forms do not.
    rotated = _MATMUL(x32.reshape(-1, size), _rotate_half(size)).reshape(tokens, -1)
    cos, sin = mint.tile(cos_TH, (1, heads)), mint.tile(sin_TH, (1, heads))
    y = (x32.reshape(tokens, -1) * cos + rotated * sin).reshape(tokens, heads, size)
    return y if x_TNH.dtype == ms.float32 else y.astype(x_TNH.dtype)


@constexpr
@cache
def _rotate_half(size: int) -> Tensor:
    """Return fp32 [H, H], the map (a, b) -> (-b, a) of a row's halves: 1 and -1 only, so products with it are exact."""
    half = np.eye(size // 2, dtype=np.float32)
    return Tensor(np.block([[0 * half, half], [-half, 0 * half]]))


def rope_ascend(x_TNH: Tensor, cos_TH: Tensor, sin_TH: Tensor) -> Tensor:
    """Return the same with the fused operation, x as BSND [1, T, N, H] and the angles as [1, T, 1, H].

    Not verified on a device. In fp32 like the reference: the operation wants the angles in the dtype of x. It is
    deprecated since MindSpore 2.9; the conformance suite will say when it is gone.
    """
    if is_outside("rope", (x_TNH.dtype,), x_TNH.shape):
        return rope_reference(x_TNH, cos_TH, sin_TH)
    x32 = x_TNH if x_TNH.dtype == ms.float32 else x_TNH.astype(ms.float32)
    # Tables of another dtype are multiplied in fp32 by the reference, too.
    cos32 = cos_TH if cos_TH.dtype == ms.float32 else cos_TH.astype(ms.float32)
    sin32 = sin_TH if sin_TH.dtype == ms.float32 else sin_TH.astype(ms.float32)
    cos, sin = cos32.expand_dims(0).expand_dims(2), sin32.expand_dims(0).expand_dims(2)
    y = ops.rotary_position_embedding(x32.expand_dims(0), cos, sin, 0).squeeze(0)
    return y if x_TNH.dtype == ms.float32 else y.astype(x_TNH.dtype)
