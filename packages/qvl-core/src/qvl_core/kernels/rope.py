"""Rotary position embedding, rotate-half form. Shapes: T tokens or patches, N heads, H head size.

The angles come ready-made (vision 2-D or M-RoPE): one cosine and one sine for each token and head dim.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, mint, ops


def rope_reference(x_TNH: Tensor, cos_TH: Tensor, sin_TH: Tensor) -> Tensor:
    """Return x rotated by its token's angles: x * cos + rotate_half(x) * sin, in the dtype of x."""
    # fp32 inside: at position 30 000 a bf16 angle is off by whole turns.
    x32 = x_TNH if x_TNH.dtype == ms.float32 else x_TNH.astype(ms.float32)
    half = x_TNH.shape[-1] // 2
    # Slices, not mint.split: its gradient is silently wrong here (the pieces go straight into cat).
    rotated = mint.cat((-x32[..., half:], x32[..., :half]), -1)
    y = x32 * cos_TH.expand_dims(1) + rotated * sin_TH.expand_dims(1)
    return y if x_TNH.dtype == ms.float32 else y.astype(x_TNH.dtype)


def rope_ascend(x_TNH: Tensor, cos_TH: Tensor, sin_TH: Tensor) -> Tensor:
    """Return the same with the fused operation, x as BSND [1, T, N, H] and the angles as [1, T, 1, H].

    Not verified on a device. In fp32 like the reference: the operation wants the angles in the dtype of x. It is
    deprecated since MindSpore 2.9; the conformance suite will say when it is gone.
    """
    x32 = x_TNH if x_TNH.dtype == ms.float32 else x_TNH.astype(ms.float32)
    cos, sin = cos_TH.expand_dims(0).expand_dims(2), sin_TH.expand_dims(0).expand_dims(2)
    y = ops.rotary_position_embedding(x32.expand_dims(0), cos, sin, 0).squeeze(0)
    return y if x_TNH.dtype == ms.float32 else y.astype(x_TNH.dtype)
