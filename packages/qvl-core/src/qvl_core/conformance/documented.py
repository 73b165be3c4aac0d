"""What the documentation says of the fused operations, played by numpy: rules of a call, and its result.

Each model takes the arguments by the names of the documentation, raises `BrokenRuleError` where a documented rule does
not hold, and returns float64 arrays. Sources, read in November 2026: the docstrings of MindSpore 2.10.0; its test
`tests/st/ops/ascend/test_flash_attention_score.py`; CANN's page of aclnnFlashAttentionVarLenScore.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from qvl_core.conformance import truth
from qvl_core.kernels.domain import FLOATS, HALF, dtype_name

Array = NDArray[np.float64]
Arguments = Mapping[str, Any]

MASK = 2048


class BrokenRuleError(AssertionError):
    """A call that the documentation does not allow."""


def wide(x: Tensor) -> Array:
    """Return the numbers of a tensor of any float dtype, in float64."""
    return np.asarray(x.astype(ms.float32).asnumpy(), np.float64)


def _need(holds: bool, rule: str) -> None:
    if not holds:
        raise BrokenRuleError(rule)


def _one_dtype(tensors: Sequence[Tensor], allowed: Sequence[str]) -> None:
    names = [dtype_name(x.dtype) for x in tensors]
    _need(set(names) <= set(allowed), f"dtype {names[0]}: {', '.join(allowed)} only")
    _need(len(set(names)) == 1, f"one dtype, not {', '.join(names)}")


def flash_attention_score(given: Arguments) -> Array:
    """Play the operation in the layouts TND and BSND; as many key heads as divide the query heads."""
    query, key, value = given["query"], given["key"], given["value"]
    _one_dtype((query, key, value), HALF)
    dims = {"TND": 3, "BSND": 4}.get(given["input_layout"], 0)
    _need(dims > 0, "only the TND and BSND layouts are played here")
    _need(query.ndim == key.ndim == value.ndim == dims, f"{given['input_layout']} tensors have {dims} dims")
    heads, size = query.shape[-2:]
    _need(size % 16 == 0 and 16 <= size <= 512, "head size: a multiple of 16, at most 512")
    _need(key.shape == value.shape and key.shape[-1] == size, "keys and values of one shape and head size")
    _need(given["head_num"] == heads <= 256, "head_num is the query's number of heads, at most 256")
    _need(heads % key.shape[-2] == 0, "key heads divide the query heads")
    _need(all(given[name] is None for name in ("real_shift", "drop_mask", "padding_mask", "prefix")), "left at None")
    _need(given["keep_prob"] == 1.0 and given["inner_precise"] == 0, "no dropout, no reserved argument")
    _need(isinstance(given["scalar_value"], float), "scalar_value is a double")
    if dims == 4:
        return _by_batch(given)
    ends = _sequence_ends(given["actual_seq_qlen"], query.shape[0])
    keys = _sequence_ends(given["actual_seq_kvlen"], key.shape[0])
    _need(len(ends) == len(keys), "as many query as key sequences")
    return _by_sequence(given, ends, keys)


def _by_batch(given: Arguments) -> Array:
    """Play BSND: every query of a batch sees every key that the mask does not hide."""
    q, k, v = (wide(given[name]) for name in ("query", "key", "value"))
    _need(given["actual_seq_qlen"] is None and given["actual_seq_kvlen"] is None, "cumulative ends are TND's")
    batches, queries, heads = q.shape[:3]
    keys, shared = k.shape[1], heads // k.shape[2]
    _need(k.shape[0] == batches and 1 <= batches <= 2048, "one batch size, 1 to 2K")
    _need(1 <= queries <= 2**19 and 1 <= keys <= 2**19, "lengths of 1 to 512K")
    hidden = _whole_mask(given, batches, queries, keys)
    _need(not bool(hidden.all(-1).any()), "no query may be left without a key")
    scores = np.einsum("bqnh,bknh->bnqk", q, np.repeat(k, shared, 2)) * given["scalar_value"]
    weights = truth.softmax(np.where(hidden, -np.inf, scores))
    return np.asarray(np.einsum("bnqk,bknh->bqnh", weights, np.repeat(v, shared, 2)), np.float64)


def _whole_mask(given: Arguments, batches: int, queries: int, keys: int) -> NDArray[np.bool_]:
    """Return what modes 0 and 1 hide outside of TND, broadcast against [B, N, queries, keys]."""
    mode, mask = given["sparse_mode"], given["attn_mask"]
    _need(mode in (0, 1), f"only sparse modes 0 and 1 are played in BSND, not {mode}")
    if mask is None:
        _need(mode == 0, "sparse_mode 1 without its mask")
        return np.zeros((1, 1, queries, keys), np.bool_)
    _need(dtype_name(mask.dtype) in ("bool", "uint8"), "the mask is bool or uint8")
    shapes = ((queries, keys), (batches, 1, queries, keys), (batches, given["head_num"], queries, keys))
    _need(mask.shape in shapes, "the mask is (S1, S2), (B, 1, S1, S2) or (B, N1, S1, S2)")
    limits = given["pre_tokens"], given["next_tokens"]
    _need(mode == 1 or min(limits) >= max(queries, keys), "mode 0 with token limits is not played here")
    hidden = mask.asnumpy().astype(np.bool_)
    return hidden if hidden.ndim == 4 else hidden[None, None]


def _sequence_ends(ends: Any, rows: int) -> tuple[int, ...]:
    """Check cumulative lengths: no leading 0, growing, the last one the number of rows, at most 1024 of them."""
    _need(isinstance(ends, (tuple, list)) and all(type(end) is int for end in ends), "ends: a tuple or list of int")
    _need(0 < len(ends) <= 1024, "1 to 1024 sequences")
    _need(ends[0] > 0, "ends without a leading 0")
    _need(all(b > a for a, b in pairwise(ends)), "no sequence without a key")
    _need(ends[-1] == rows <= 2**20, "the last end is the number of rows, at most 1M")
    return tuple(ends)


def _by_sequence(given: Arguments, ends: tuple[int, ...], keys: tuple[int, ...]) -> Array:
    q, k, v = (wide(given[name]) for name in ("query", "key", "value"))
    shared = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, shared, 1), np.repeat(v, shared, 1)
    y = np.empty_like(q)
    for (a, b), (c, d) in zip(pairwise((0, *ends)), pairwise((0, *keys)), strict=True):
        hidden = hidden_by(given, b - a, d - c)
        _need(not bool(hidden.all(-1).any()), "no query may be left without a key")
        scores = np.einsum("qnh,knh->nqk", q[a:b], k[c:d]) * given["scalar_value"]
        y[a:b] = np.einsum("nqk,knh->qnh", truth.softmax(np.where(hidden, -np.inf, scores)), v[c:d])
    return y


def relied_on(operation: str, given: Arguments) -> str:
    """Say which rule a legal call relies on that is CANN's and not in MindSpore's docstring; "" where there is none."""
    in_tnd = operation == "ops.flash_attention_score" and given["input_layout"] == "TND"
    if in_tnd and given["attn_mask"] is None:
        return "CANN: without a mask nothing is hidden; MindSpore's docstring wants the triangle in TND"
    return ""


def hidden_by(given: Arguments, queries: int, keys: int) -> NDArray[np.bool_]:
    """Return bool [queries, keys], what mask, mode and token limits hide of one sequence; True is hidden.

    Without a mask, mode and limits have no effect and nothing is hidden (CANN, "constraints"). Mode 2 is the causal
    triangle from the upper left corner, mode 3 from the lower right one; both want the triangle [2048, 2048] as mask.
    """
    mode, mask = given["sparse_mode"], given["attn_mask"]
    if mask is None:
        _need(mode == 0, f"sparse_mode {mode} without its mask")
        return np.zeros((queries, keys), np.bool_)
    _need(dtype_name(mask.dtype) in ("bool", "uint8"), "the mask is bool or uint8")
    _need(mode in (2, 3), f"a mask in TND: sparse_mode 2 or 3, not {mode}")
    _need(mask.shape == (MASK, MASK), "the compressed mask has 2048 x 2048 entries")
    above = np.triu(np.ones((MASK, MASK), np.bool_), 1)
    _need(bool((mask.asnumpy().astype(np.bool_) == above).all()), "the mask is 1 (hidden) above the diagonal, 0 else")
    _need(given["next_tokens"] == 0, "TND: next_tokens is 0")
    _need(given["pre_tokens"] >= queries, "TND: pre_tokens is not less than the longest sequence")
    _need(mode == 2 or queries <= keys, "sparse_mode 3: no sequence has more queries than keys")
    return ~np.tri(queries, keys, keys - queries if mode == 3 else 0, dtype=np.bool_)


def rms_norm(given: Arguments) -> tuple[Array, Array]:
    """Play `ops.rms_norm`: the normalised rows, and the inverse roots of their mean squares."""
    x, gamma, epsilon = given["x"], given["gamma"], given["epsilon"]
    _one_dtype((x, gamma), FLOATS)
    _need(isinstance(epsilon, float) and 0.0 < epsilon <= 1.0, "epsilon is a float in (0, 1]")
    _need(1 <= x.ndim <= 8 and gamma.shape == x.shape[x.ndim - gamma.ndim :], "gamma has the last dims of x")
    inverse_root = 1.0 / np.sqrt(np.mean(wide(x) ** 2, -1, keepdims=True) + epsilon)
    return truth.rms_norm(wide(x), wide(gamma), epsilon), inverse_root


def swiglu(given: Arguments) -> Array:
    """Play `ops.swiglu`: silu of the first half times the second."""
    x, dim = given["input"], given["dim"]
    _one_dtype((x,), FLOATS)
    _need(isinstance(dim, int) and x.shape[dim] % 2 == 0, "an even number of entries along dim")
    first, second = np.split(wide(x), 2, dim)
    return truth.swiglu(first, second)


def rotary_position_embedding(given: Arguments) -> Array:
    """Play the operation in mode 0 (rotate half) and the layout BSND."""
    x, cos, sin = given["x"], given["cos"], given["sin"]
    _one_dtype((x, cos, sin), FLOATS)
    _need(given["mode"] == 0, "mode 0 is rotate-half")
    _need(x.ndim == cos.ndim == sin.ndim == 4, "four dims")
    batch, tokens, heads, size = x.shape
    _need(size % 2 == 0 and size < 896 and batch < 1000 and heads < 1000, "D even and < 896; B, N < 1000")
    _need(
        cos.shape == sin.shape and cos.shape in ((1, tokens, 1, size), (batch, tokens, 1, size)), "BSND: 1S1D or BS1D"
    )
    _need(max(float(np.abs(wide(a)).max(initial=0.0)) for a in (cos, sin)) <= 1.0, "cos and sin in [-1, 1]")
    half = size // 2
    rotated = np.concatenate((-wide(x)[..., half:], wide(x)[..., :half]), -1)
    y: Array = wide(x) * wide(cos) + rotated * wide(sin)
    return y


def cross_entropy(given: Arguments) -> Array:
    """Play `mint.nn.functional.cross_entropy` for class indices without reduction."""
    logits, target = given["input"], given["target"]
    _one_dtype((logits,), FLOATS)
    _need(dtype_name(target.dtype) in ("int32", "int64"), "class indices are int32 or int64")
    _need(logits.ndim == 2 and target.shape == logits.shape[:1], "input (N, C), target (N)")
    _need(given["weight"] is None and given["label_smoothing"] == 0.0, "no weights, no smoothing")
    _need((given["reduction"], given["ignore_index"]) == ("none", -100), "one loss a token")
    labels = target.asnumpy()
    # ignore_index is documented, but not relied on: compiled on CPU the losses of ignored tokens are left unset.
    _need(bool(((labels >= 0) & (labels < logits.shape[1])).all()), "labels in [0, C)")
    return truth.cross_entropy(wide(logits), labels)


def linear(given: Arguments) -> Array:
    """Play `mint.nn.functional.linear`."""
    x, weight, bias = given["input"], given["weight"], given["bias"]
    _one_dtype((x, weight) if bias is None else (x, weight, bias), FLOATS)
    _need(weight.ndim == 2 and x.shape[-1] == weight.shape[1], "weight (out, in)")
    return truth.linear(wide(x), wide(weight), None if bias is None else wide(bias))


def adam(given: Arguments) -> tuple[Array, Array, Array]:
    """Play `ops.Adam`: parameter and both moments after the update, in the formulas of its documentation."""
    var, m, v, gradient = (given[name] for name in ("var", "m", "v", "gradient"))
    _one_dtype((var, m, v, gradient), ("float16", "float32"))
    _need(var.shape == m.shape == v.shape == gradient.shape, "one shape")
    names = ("beta1_power", "beta2_power", "lr", "beta1", "beta2", "epsilon")
    power1, power2, lr, beta1, beta2, epsilon = (float(given[name]) for name in names)
    first = beta1 * wide(m) + (1.0 - beta1) * wide(gradient)
    second = beta2 * wide(v) + (1.0 - beta2) * wide(gradient) ** 2
    rate = lr * np.sqrt(1.0 - power2) / (1.0 - power1)
    return wide(var) - rate * first / (np.sqrt(second) + epsilon), first, second


MODELS: Mapping[str, Callable[[Arguments], Any]] = MappingProxyType(
    {
        "ops.flash_attention_score": flash_attention_score,
        "ops.rms_norm": rms_norm,
        "ops.swiglu": swiglu,
        "ops.rotary_position_embedding": rotary_position_embedding,
        "mint.nn.functional.cross_entropy": cross_entropy,
        "mint.nn.functional.linear": linear,
        "ops.Adam": adam,
    }
)
