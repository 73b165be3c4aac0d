"""Attention inside segments of a flat token axis, with grouped query heads.

Shapes: T tokens, N query heads, K key/value heads (K divides N), H head size; C segments of a group, L rows of one, Q
queries and U keys in one.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, mint, ops
from mindspore.ops import constexpr

from qvl_core.kernels.domain import is_outside
from qvl_core.kernels.segments import HIDDEN, SegmentGroup, Segments
from qvl_core.kernels.softmax import softmax

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
    heads, kv_heads, size = q_TNH.shape[1], k_TKH.shape[1], q_TNH.shape[2]
    # One gather of rows brings tokens into the order of the groups and the rows of a head together. A transpose would
    # do the second, at twenty times the cost on CPU.
    q_rows, back = head_rows(segments, heads)
    kv_rows, _ = head_rows(segments, kv_heads)
    q = ops.gather((q_TNH * scale).reshape(-1, size), q_rows, 0)
    k = ops.gather(k_TKH.reshape(-1, size), kv_rows, 0)
    v = ops.gather(v_TKH.reshape(-1, size), kv_rows, 0)
    pieces: list[Tensor] = []
    for group in segments.groups:
        first, last = group.start, group.start + group.rows
        q_CNLH = _rows(q, first * heads, last * heads).reshape(group.count, heads, group.length, size)
        k_CKLH = _rows(k, first * kv_heads, last * kv_heads).reshape(group.count, kv_heads, group.length, size)
        v_CKLH = _rows(v, first * kv_heads, last * kv_heads).reshape(group.count, kv_heads, group.length, size)
        pieces = pieces + _attend_group(
            q_CNLH, k_CKLH, v_CKLH, _group_bias(group, causal), causal, segments.most_scores
        )
    rows = pieces[0] if len(pieces) == 1 else mint.cat(pieces, 0)
    return ops.gather(rows, back, 0).reshape(q_TNH.shape)


@constexpr
def head_rows(segments: Segments, heads: int) -> tuple[Tensor, Tensor]:
    """Return the plan's own answer; constexpr: jit asks while compiling, a plan being a constant to it."""
    return segments.head_rows(heads)


def _attend_group(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, most_scores: int) -> list[Tensor]:
    """Return the outputs [rows, H] of one group, in pieces of at most `most_scores` scores each."""
    count, heads, length, size = q.shape
    pieces: list[Tensor] = []
    if heads * length * length > most_scores or (causal and bias is None):
        for i in range(count):
            part = bias if bias is None or causal else bias[i : i + 1]
            pieces = pieces + [_attend_in_chunks(q[i : i + 1], k[i : i + 1], v[i : i + 1], part, causal, most_scores)]
        return pieces
    step = min(count, most_scores // (heads * length * length))
    for i in range(0, count, step):
        j = min(i + step, count)
        part = bias if bias is None or causal else bias[i:j]
        y = _attend(_rows(q, i, j), _rows(k, i, j), _rows(v, i, j), part)
        pieces = pieces + [y.reshape(-1, size)]
    return pieces


def _attend_in_chunks(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, most_scores: int) -> Tensor:
    """Return the outputs of one long segment, some queries at a time; causal chunks skip the keys they cannot see."""
    heads, length, size = q.shape[1], q.shape[2], q.shape[3]
    step = max(1, most_scores // (heads * length))
    pieces: list[Tensor] = []
    for a in range(0, length, step):
        b = min(a + step, length)
        seen = b if causal else length
        part = bias
        if causal:
            part = _later(a, b, seen) if bias is None else bias[:, :, a:b, :seen]
        pieces = pieces + [_attend(q[:, :, a:b], k[:, :, :seen], v[:, :, :seen], part)]
    return mint.cat(pieces, 2).reshape(-1, size)


def _later(first: int, last: int, seen: int) -> Tensor:
    """Return fp32 [1, 1, last - first, seen] that hides the keys behind each of the queries first to last."""
    later = ops.arange(seen).expand_dims(0) > ops.arange(first, last).expand_dims(1)
    return (later.astype(ms.float32) * HIDDEN).expand_dims(0).expand_dims(0)


def _group_bias(group: SegmentGroup, causal: bool) -> Tensor | None:
    """Return what is added to the scores, 4-D: causal order hides the padding by itself, which is at the end."""
    if not causal:
        return group.padding_bias
    return None if group.causal_bias is None else group.causal_bias.expand_dims(0).expand_dims(0)


def _rows(x: Tensor, first: int, last: int) -> Tensor:
    """Return rows first to last, without an operation where that is all of them."""
    return x if first == 0 and last == x.shape[0] else x[first:last]


def _attend(q_CNQH: Tensor, k_CKUH: Tensor, v_CKUH: Tensor, bias: Tensor | None) -> Tensor:
    """Return the outputs [C, N, Q, H] of C segments of Q queries and U keys each.

    The query heads of one key head are laid below each other, so that keys and values are never copied.
    """
    count, heads, queries, size = q_CNQH.shape
    kv_heads, keys = k_CKUH.shape[1], k_CKUH.shape[2]
    shared = heads // kv_heads
    if keys == 1:
        # A single key has the weight 1; and MindSpore's softmax over a dim of size 1 has to be kept away from.
        return mint.tile(v_CKUH, (1, 1, shared, 1)).reshape(q_CNQH.shape)
    q = q_CNQH if shared == 1 else q_CNQH.reshape(count, kv_heads, shared * queries, size)
    scores = _SCORES(q, k_CKUH)
    if scores.dtype != ms.float32:
        scores = scores.astype(ms.float32)
    if bias is not None:
        scores = scores + _spread(bias, shared, scores.shape)
    weights = softmax(scores)
    if v_CKUH.dtype != ms.float32:
        weights = weights.astype(v_CKUH.dtype)
    return _WEIGHTED(weights, v_CKUH).reshape(q_CNQH.shape)


def _spread(bias: Tensor, shared: int, shape: tuple[int, ...]) -> Tensor:
    """Return the bias in the shape of the scores: adding it by broadcasting takes ten times as long on CPU."""
    if bias.shape[2] == 1:
        return mint.tile(bias, (shape[0] // bias.shape[0], shape[1], shape[2], 1))
    return mint.tile(bias, (shape[0] // bias.shape[0], shape[1], shared, 1))


def attention_ascend(
    q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, segments: Segments, *, causal: bool, scale: float
) -> Tensor:
    """Return the same with flash attention in the TND layout: no padding, no gather, grouped heads as they are.

    Not verified on a device. That a full (not causal) call goes without a mask is CANN's rule (without one, mode and
    token limits have no effect and everything is computed) and what a test of MindSpore's own does; MindSpore's text
    asks for the triangle. Outside of the declared domain (`kernels.domain`) the reference runs, and a warning says so.
    """
    sizes = (q_TNH.shape[2], q_TNH.shape[1], longest(segments))
    if is_outside("attention", (q_TNH.dtype, k_TKH.dtype, v_TKH.dtype), sizes):
        return attention_reference(q_TNH, k_TKH, v_TKH, segments, causal=causal, scale=scale)
    require_fit(q_TNH.shape, k_TKH.shape, v_TKH.shape, segments)
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
            # A double: a whole number or a number of numpy is refused.
            scalar_value=float(scale),
            next_tokens=0 if causal else NO_LIMIT,
            input_layout="TND",
            sparse_mode=3 if causal else 0,
        )
        pieces = pieces + [piece]
    return pieces[0] if len(pieces) == 1 else mint.cat(pieces, 0)


@constexpr
def require_fit(q_TNH: tuple[int, ...], k_TKH: tuple[int, ...], v_TKH: tuple[int, ...], segments: Segments) -> bool:
    """Raise ValueError unless the shapes are those of one plan: a device would read behind the end without a word.

    The reference stumbles over its own reshape there; constexpr: shapes and plan are constants to jit.
    """
    if len(q_TNH) != 3 or k_TKH != v_TKH or (q_TNH[0], q_TNH[2]) != (k_TKH[0], k_TKH[2]):
        raise ValueError(f"attention: queries {q_TNH}, keys {k_TKH} and values {v_TKH} do not belong together")
    if q_TNH[1] % k_TKH[1]:
        raise ValueError(f"attention: {k_TKH[1]} key heads do not divide {q_TNH[1]} query heads")
    if q_TNH[0] != segments.total:
        raise ValueError(f"attention: {q_TNH[0]} tokens, and the segments are planned for {segments.total}")
    return True


@constexpr
def longest(segments: Segments) -> int:
    """Return the length of the longest segment; constexpr: a plan is a constant to jit."""
    return max(segments.lengths)
