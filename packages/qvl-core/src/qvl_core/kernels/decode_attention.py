"""Attention of one new token per sequence over its cached keys and values.

Shapes: B sequences, S cache slots, N query heads, K key/value heads (K divides N), H head size.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, mint, ops

from qvl_core.kernels.segments import HIDDEN

_SCORES = ops.BatchMatMul(transpose_b=True)
_WEIGHTED = ops.BatchMatMul()


def decode_attention_reference(
    q_BNH: Tensor, keys_BKSH: Tensor, values_BKSH: Tensor, lengths_B: Tensor, *, scale: float
) -> Tensor:
    """Return softmax(q k^T * scale) v over the first lengths_B[b] slots of each cache, [B, N, H], softmax in fp32."""
    batch, heads, size = q_BNH.shape
    slots, kv_heads = keys_BKSH.shape[2], keys_BKSH.shape[1]
    q = (q_BNH * scale).reshape(batch, kv_heads, heads // kv_heads, size)
    scores = _SCORES(q, keys_BKSH)
    if scores.dtype != ms.float32:
        scores = scores.astype(ms.float32)
    empty_BS = ops.arange(slots).expand_dims(0) >= lengths_B.expand_dims(1)
    scores = mint.where(empty_BS.expand_dims(1).expand_dims(1), HIDDEN, scores)
    weights = ops.softmax(scores, -1)
    if weights.dtype != values_BKSH.dtype:
        weights = weights.astype(values_BKSH.dtype)
    return _WEIGHTED(weights, values_BKSH).reshape(batch, heads, size)


def decode_attention_ascend(
    q_BNH: Tensor, keys_BKSH: Tensor, values_BKSH: Tensor, lengths_B: Tensor, *, scale: float
) -> Tensor:
    """Return the same in plain operations: no fused form is written for the device yet."""
    return decode_attention_reference(q_BNH, keys_BKSH, values_BKSH, lengths_B, scale=scale)
