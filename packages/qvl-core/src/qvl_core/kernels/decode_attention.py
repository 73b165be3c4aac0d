"""Attention of one new token per sequence over its cached keys and values.

Shapes: B sequences, S cache slots, N query heads, K key/value heads (K divides N), H head size.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, mint, ops

_SCORES = ops.BatchMatMul(transpose_b=True)
_WEIGHTED = ops.BatchMatMul()


def decode_attention_reference(
    q_BNH: Tensor, keys_BKSH: Tensor, values_BKSH: Tensor, bias_BS: Tensor, *, scale: float
) -> Tensor:
    """Return softmax(q k^T * scale + bias) v, [B, N, H], softmax in fp32.

    The bias is fp32, 0 for what a sequence holds and `segments.HIDDEN` for the rest of its slots.
    """
    batch, heads, size = q_BNH.shape
    kv_heads, slots = keys_BKSH.shape[1], keys_BKSH.shape[2]
    shared = heads // kv_heads
    scores = _SCORES((q_BNH * scale).reshape(batch, kv_heads, shared, size), keys_BKSH)
    if scores.dtype != ms.float32:
        scores = scores.astype(ms.float32)
    # Adding by broadcasting takes ten times as long on CPU.
    weights = ops.softmax(scores + mint.tile(bias_BS.reshape(batch, 1, 1, slots), (1, kv_heads, shared, 1)), -1)
    if weights.dtype != values_BKSH.dtype:
        weights = weights.astype(values_BKSH.dtype)
    return _WEIGHTED(weights, values_BKSH).reshape(batch, heads, size)


def decode_attention_ascend(
    q_BNH: Tensor, keys_BKSH: Tensor, values_BKSH: Tensor, bias_BS: Tensor, *, scale: float
) -> Tensor:
    """Return the same in plain operations: no fused form is written for the device yet."""
    return decode_attention_reference(q_BNH, keys_BKSH, values_BKSH, bias_BS, scale=scale)
