"""Attention inside segments of a flat token axis, with grouped query heads.

Shapes: T tokens, N query heads, K key/value heads (K divides N), H head size; S segments, L rows of a segment.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, mint, ops

from qvl_core.kernels.announce import warn_once
from qvl_core.kernels.segments import HIDDEN, SegmentGroup, Segments

# ruff: noqa: RUF005 - jit reads neither [*pieces, piece] nor append.

# What the documentation writes for "no limit" on the tokens to either side.
NO_LIMIT = 2147483647

_SCORES = ops.BatchMatMul(transpose_b=True)
_WEIGHTED = ops.BatchMatMul()


def attention_reference(
    q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, segments: Segments, *, causal: bool, scale: float
) -> Tensor:
    """Return softmax(q k^T * scale) v inside each segment, [T, N, H], in the dtype of v; the softmax is fp32.

    Query head n uses key/value head n // (N / K). With `causal` a token sees itself and what stands before it in its
    segment.
    """
    q = q_TNH * scale
    k, v = k_TKH, v_TKH
    if segments.order is not None:
        q, k, v = ops.gather(q, segments.order, 0), ops.gather(k, segments.order, 0), ops.gather(v, segments.order, 0)
    pieces: list[Tensor] = []
    for group in segments.groups:
        pieces = pieces + _attend_group(q, k, v, group, causal, segments.most_scores)
    rows = pieces[0] if len(pieces) == 1 else mint.cat(pieces, 0)
    return rows if segments.inverse is None else ops.gather(rows, segments.inverse, 0)


def _attend_group(q: Tensor, k: Tensor, v: Tensor, group: SegmentGroup, causal: bool, most_scores: int) -> list[Tensor]:
    """Return the outputs of one group of equal-length segments, in pieces of at most `most_scores` scores each."""
    length, scores_of_one = group.length, q.shape[1] * group.length * group.length
    bias = _group_bias(group, causal)
    pieces: list[Tensor] = []
    if scores_of_one > most_scores:
        for i in range(group.count):
            pieces = pieces + _attend_in_chunks(q, k, v, group, i, causal, most_scores)
        return pieces
    step = min(group.count, most_scores // scores_of_one)
    for i in range(0, group.count, step):
        count = min(step, group.count - i)
        first, last = group.start + i * length, group.start + (i + count) * length
        part = bias if bias is None or causal else bias[i : i + count]
        pieces = pieces + [_attend(_rows(q, first, last), _rows(k, first, last), _rows(v, first, last), count, part)]
    return pieces


def _attend_in_chunks(
    q: Tensor, k: Tensor, v: Tensor, group: SegmentGroup, i: int, causal: bool, most_scores: int
) -> list[Tensor]:
    """Return the outputs of one long segment, some queries at a time; causal chunks skip the keys they cannot see."""
    length, first = group.length, group.start + i * group.length
    step = max(1, most_scores // (q.shape[1] * length))
    bias = _group_bias(group, causal)
    pieces: list[Tensor] = []
    for a in range(0, length, step):
        b = min(a + step, length)
        seen = b if causal else length
        if not causal:
            part = bias if bias is None else bias[i : i + 1]
        elif bias is not None:
            part = bias[a:b, :seen]
        else:
            later = group.positions[:seen].expand_dims(0) > group.positions[a:b].expand_dims(1)
            part = later.astype(ms.float32) * HIDDEN
        keys, values = _rows(k, first, first + seen), _rows(v, first, first + seen)
        pieces = pieces + [_attend(_rows(q, first + a, first + b), keys, values, 1, part)]
    return pieces


def _group_bias(group: SegmentGroup, causal: bool) -> Tensor | None:
    """Return what is added to the scores. Causal order hides the padding by itself, which is at the end."""
    return group.causal_bias if causal else group.padding_bias


def _rows(x: Tensor, first: int, last: int) -> Tensor:
    """Return rows first to last, without an operation where that is all of them."""
    return x if first == 0 and last == x.shape[0] else x[first:last]


def _attend(q_TNH: Tensor, k_UKH: Tensor, v_UKH: Tensor, count: int, bias: Tensor | None) -> Tensor:
    """Return the outputs of `count` segments of equal length; q may have fewer rows than k and v.

    The query heads of one key head are laid below each other, so that keys and values are never copied.
    """
    rows, heads, size = q_TNH.shape
    kv_heads, shared = k_UKH.shape[1], q_TNH.shape[1] // k_UKH.shape[1]
    queries, keys = rows // count, k_UKH.shape[0] // count
    if keys == 1:
        # A single key has the weight 1. Not only a short cut: in MindSpore 2.10 one backward of softmax over a dim of
        # size 1 makes every later softmax gradient of that rank in the process wrong, silently.
        return mint.broadcast_to(v_UKH.expand_dims(2), (rows, kv_heads, shared, size)).reshape(rows, heads, size)
    if shared == 1:
        q = q_TNH.reshape(count, queries, heads, size).swapaxes(1, 2)
    else:
        q = q_TNH.reshape(count, queries, kv_heads, shared, size).transpose(0, 2, 3, 1, 4)
        q = q.reshape(count, kv_heads, shared * queries, size)
    k = k_UKH.reshape(count, keys, kv_heads, size).swapaxes(1, 2)
    v = v_UKH.reshape(count, keys, kv_heads, size).swapaxes(1, 2)
    y = _WEIGHTED(_weights(_SCORES(q, k), shared, queries, bias, v.dtype), v)
    if shared == 1:
        return y.swapaxes(1, 2).reshape(rows, heads, size)
    return y.reshape(count, kv_heads, shared, queries, size).transpose(0, 3, 1, 2, 4).reshape(rows, heads, size)


def _weights(scores: Tensor, shared: int, queries: int, bias: Tensor | None, dtype: ms.Type) -> Tensor:
    """Return softmax(scores + bias) over the keys; scores [S, K, shared * queries, keys], in fp32 until the end."""
    shape = scores.shape
    if scores.dtype != ms.float32:
        scores = scores.astype(ms.float32)
    if bias is not None:
        if shared > 1:
            scores = scores.reshape(shape[0], shape[1], shared, queries, shape[3])
            bias = bias if bias.ndim == 2 else bias.expand_dims(1)
        scores = scores + bias
    weights = ops.softmax(scores, -1)
    if bias is not None and shared > 1:
        weights = weights.reshape(shape)
    return weights if dtype == ms.float32 else weights.astype(dtype)


def attention_ascend(
    q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, segments: Segments, *, causal: bool, scale: float
) -> Tensor:
    """Return the same with flash attention in the TND layout: no padding, no gather, grouped heads as they are.

    Not verified on a device. Two points are read from the documentation only: that a full (not causal) TND call
    without a mask is accepted, and that several calls stand for more than 1024 segments. Where the operation cannot
    take the input (fp32, head size not a multiple of 16 or over 512) the reference runs, and a warning says so.
    """
    refusal = _fused_refusal(q_TNH)
    if refusal:
        warn_once(refusal)
        return attention_reference(q_TNH, k_TKH, v_TKH, segments, causal=causal, scale=scale)
    pieces: list[Tensor] = []
    for first, ends in segments.fused_batches:
        last = first + ends[-1]
        # Mode 3 with the prescribed triangle is causal, each segment for itself; mode 0 without a mask hides nothing.
        piece = ops.flash_attention_score(
            _rows(q_TNH, first, last),
            _rows(k_TKH, first, last),
            _rows(v_TKH, first, last),
            q_TNH.shape[1],
            attn_mask=segments.compressed_causal_mask if causal else None,
            actual_seq_qlen=ends,
            actual_seq_kvlen=ends,
            scalar_value=scale,
            next_tokens=0 if causal else NO_LIMIT,
            input_layout="TND",
            sparse_mode=3 if causal else 0,
        )
        pieces = pieces + [piece]
    return pieces[0] if len(pieces) == 1 else mint.cat(pieces, 0)


def _fused_refusal(q_TNH: Tensor) -> str:
    """Say why flash attention cannot take these queries, "" where it can."""
    if q_TNH.dtype not in (ms.float16, ms.bfloat16):
        return "attention: the fused form takes fp16 and bf16 only; running the slower reference"
    if q_TNH.shape[-1] % 16 != 0 or q_TNH.shape[-1] > 512:
        return "attention: the fused form wants a head size that 16 divides, at most 512; running the slower reference"
    return ""
