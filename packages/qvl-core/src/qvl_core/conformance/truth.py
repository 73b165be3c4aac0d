"""The kernels' definitions in numpy, float64: what every form is measured against. Written for clarity, not for speed.

Shapes as in `qvl_core.kernels`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int32]


def embedding(weight_VD: Array, ids_T: Integers) -> Array:
    """Return the rows of the table at the ids."""
    return weight_VD[ids_T]


def linear(x: Array, weight_OI: Array, bias_O: Array | None = None) -> Array:
    """Return x W^T + b."""
    y: Array = x @ weight_OI.T
    return y if bias_O is None else y + bias_O


def rms_norm(x: Array, weight_D: Array, eps: float) -> Array:
    """Return x / sqrt(mean(x^2) + eps) * weight."""
    y: Array = x / np.sqrt(np.mean(x * x, -1, keepdims=True) + eps) * weight_D
    return y


def swiglu(gate: Array, up: Array) -> Array:
    """Return gate * sigmoid(gate) * up."""
    return gate / (1.0 + np.exp(-gate)) * up


def gelu(x: Array) -> Array:
    """Return x times the normal distribution function at x."""
    y: Array = 0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))
    return y


def rope(x_TNH: Array, cos_TH: Array, sin_TH: Array) -> Array:
    """Return the rotated heads: dims i and i + H/2 form the plane that turns."""
    half = x_TNH.shape[-1] // 2
    rotated = np.concatenate((-x_TNH[..., half:], x_TNH[..., :half]), -1)
    y: Array = x_TNH * cos_TH[:, None] + rotated * sin_TH[:, None]
    return y


def attention(q_TNH: Array, k_TKH: Array, v_TKH: Array, lengths: Sequence[int], causal: bool, scale: float) -> Array:
    """Return softmax(q k^T * scale) v inside each segment, one segment after another."""
    shared = q_TNH.shape[1] // k_TKH.shape[1]
    keys, values = np.repeat(k_TKH, shared, 1), np.repeat(v_TKH, shared, 1)
    y = np.empty_like(q_TNH)
    first = 0
    for length in lengths:
        part = slice(first, first + length)
        scores = np.einsum("qnh,knh->nqk", q_TNH[part], keys[part]) * scale
        if causal:
            scores = np.where(np.tri(length, dtype=np.bool_), scores, -np.inf)
        y[part] = np.einsum("nqk,knh->qnh", softmax(scores), values[part])
        first += length
    return y


def decode_attention(q_BNH: Array, keys_BKSH: Array, values_BKSH: Array, bias_BS: Array, scale: float) -> Array:
    """Return each sequence's attention over the filled slots of its cache, those whose bias is 0."""
    shared = q_BNH.shape[1] // keys_BKSH.shape[1]
    y = np.empty_like(q_BNH)
    for b, bias_S in enumerate(bias_BS):
        keys, values = (np.repeat(x[b][:, bias_S == 0.0], shared, 0) for x in (keys_BKSH, values_BKSH))
        y[b] = np.einsum("nk,nkh->nh", softmax(np.einsum("nh,nkh->nk", q_BNH[b], keys) * scale), values)
    return y


def cross_entropy(logits_TV: Array, labels_T: Integers) -> Array:
    """Return -log softmax(logits)[label], 0 where the label is -100."""
    top = logits_TV.max(-1, keepdims=True, initial=-np.inf)
    log_sum = np.log(np.exp(logits_TV - top).sum(-1)) + top[:, 0]
    picked = logits_TV[np.arange(len(labels_T)), np.maximum(labels_T, 0)]
    return np.where(labels_T == -100, 0.0, log_sum - picked)


def merge_tokens(text_TD: Array, vision_UD: Array, index_T: Integers) -> Array:
    """Return the indexed rows of text followed by vision."""
    return np.concatenate((text_TD, vision_UD))[index_T]


def adamw(
    parameter: Array, gradients: Sequence[Array], *, lr: float, betas: tuple[float, float], eps: float, decay: float
) -> Array:
    """Return the parameter after one AdamW update for each gradient (Loshchilov and Hutter, arXiv 1711.05101)."""
    value = parameter.copy()
    first, second = np.zeros_like(value), np.zeros_like(value)
    for step, gradient in enumerate(gradients, start=1):
        first = betas[0] * first + (1.0 - betas[0]) * gradient
        second = betas[1] * second + (1.0 - betas[1]) * gradient**2
        corrected1, corrected2 = first / (1.0 - betas[0] ** step), second / (1.0 - betas[1] ** step)
        value = value - lr * decay * value - lr * corrected1 / (np.sqrt(corrected2) + eps)
    return value


def join(*arrays: Array) -> Array:
    """Return the elements of all arrays, flat and in order."""
    return np.concatenate([array.reshape(-1) for array in arrays])


def sum_of_squares(*arrays: Array) -> Array:
    """Return the sum of squares of all elements, [1]."""
    return np.array([sum(float((array**2).sum()) for array in arrays)])


def softmax(scores: Array) -> Array:
    """Return the softmax over the last dim."""
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    normal: Array = weights / weights.sum(-1, keepdims=True)
    return normal
