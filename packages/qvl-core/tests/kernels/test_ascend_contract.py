"""The Ascend forms against the documented rules of the fused operations, which are played by numpy here.

This proves that the calls are what the documentation asks for and that the results land where they should. It proves
nothing about a device: only `python -m qvl_core.conformance --kernels ascend` on one can.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mindspore", reason="kernels need mindspore")

import mindspore as ms
from mindspore import Tensor, mint, ops
from qvl_core.conformance import truth
from qvl_core.kernels import announce, select
from qvl_core.kernels.segments import build_segments

# fp16 results: one rounding is 5e-4 of the largest entry.
HALF = 5e-3
TABLE = select.ascend_table()


def _wide(x: Tensor) -> np.ndarray:
    return x.astype(ms.float32).asnumpy().astype(np.float64)


def _half(seed: int, *shape: int) -> Tensor:
    return Tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float16))


class FlashAttention:
    """`ops.flash_attention_score` with the rules of its documentation, and a record of the calls."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        head_num: int,
        real_shift: None = None,
        drop_mask: None = None,
        padding_mask: None = None,
        attn_mask: Tensor | None = None,
        prefix: None = None,
        actual_seq_qlen: Sequence[int] | None = None,
        actual_seq_kvlen: Sequence[int] | None = None,
        keep_prob: float = 1.0,
        scalar_value: float = 1.0,
        pre_tokens: int = 2147483647,
        next_tokens: int = 2147483647,
        inner_precise: int = 0,
        input_layout: str = "BSH",
        sparse_mode: int = 0,
    ) -> Tensor:
        assert query.dtype in (ms.float16, ms.bfloat16), "only fp16 and bf16"
        assert query.dtype == key.dtype == value.dtype, "one dtype"
        assert query.shape[-1] % 16 == 0, "head size: a multiple of 16"
        assert query.shape[-1] <= 512, "head size: at most 512"
        assert input_layout == "TND"
        assert query.ndim == key.ndim == value.ndim == 3
        assert head_num == query.shape[1], "head_num is that of the query"
        assert head_num % key.shape[1] == 0, "kv heads divide the heads"
        assert drop_mask is padding_mask is real_shift is prefix is None
        assert actual_seq_qlen is not None
        assert actual_seq_kvlen is not None
        for ends, rows in ((actual_seq_qlen, query.shape[0]), (actual_seq_kvlen, key.shape[0])):
            assert isinstance(ends, (tuple, list))
            assert ends[0] > 0, "cumulative ends without a leading 0"
            assert all(b > a for a, b in pairwise(ends)), "no empty kv sequence"
            assert ends[-1] == rows, "the last end is the number of rows"
            assert len(ends) <= 1024, "at most 1024 sequences"
        if sparse_mode in (2, 3):
            assert attn_mask is not None
            assert attn_mask.shape == (2048, 2048), "the compressed mask"
            assert attn_mask.dtype in (ms.bool_, ms.uint8)
            assert (attn_mask.asnumpy() == np.triu(np.ones((2048, 2048), np.bool_), 1)).all(), "1 = hidden, above"
            assert next_tokens == 0
            assert pre_tokens >= max(np.diff((0, *actual_seq_qlen)))
        else:
            assert sparse_mode == 0
            assert attn_mask is None
        self.calls.append({"ends": tuple(actual_seq_qlen), "sparse_mode": sparse_mode})
        lengths = np.diff((0, *actual_seq_qlen)).tolist()
        y = truth.attention(_wide(query), _wide(key), _wide(value), lengths, sparse_mode == 3, scalar_value)
        return Tensor(y.astype(np.float32)).astype(query.dtype)


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> FlashAttention:
    fake = FlashAttention()
    monkeypatch.setattr(ops, "flash_attention_score", fake)
    return fake


class TestAttention:
    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("lengths", [(1,), (7,), (3, 3), (2, 5, 1, 4, 2, 6)])
    def test_calls_flash_attention_as_documented(
        self, flash: FlashAttention, lengths: tuple[int, ...], causal: bool
    ) -> None:
        total = sum(lengths)
        q, k, v = _half(1, total, 4, 16), _half(2, total, 2, 16), _half(3, total, 2, 16)
        y = TABLE.attention(q, k, v, build_segments(lengths), causal=causal, scale=0.25)
        assert len(flash.calls) == 1
        assert flash.calls[0] == {"ends": tuple(np.cumsum(lengths)), "sparse_mode": 3 if causal else 0}
        expected = truth.attention(_wide(q), _wide(k), _wide(v), lengths, causal, 0.25)
        np.testing.assert_allclose(_wide(y), expected, atol=HALF)

    def test_more_than_1024_segments_become_several_calls(self, flash: FlashAttention) -> None:
        lengths = [1, 2] * 513
        total = sum(lengths)
        q, k, v = (_half(seed, total, 1, 16) for seed in (1, 2, 3))
        y = TABLE.attention(q, k, v, build_segments(lengths), causal=False, scale=0.25)
        assert [len(call["ends"]) for call in flash.calls] == [1024, 2]
        np.testing.assert_allclose(
            _wide(y), truth.attention(_wide(q), _wide(k), _wide(v), lengths, False, 0.25), atol=HALF
        )

    def test_exactly_1024_segments_are_one_call(self, flash: FlashAttention) -> None:
        q, k, v = (_half(seed, 1024, 1, 16) for seed in (1, 2, 3))
        TABLE.attention(q, k, v, build_segments([1] * 1024), causal=True, scale=0.25)
        assert len(flash.calls) == 1

    @pytest.mark.parametrize(
        ("size", "dtype", "said"),
        [(16, ms.float32, "takes fp16 and bf16 only"), (8, ms.float16, "wants a head size that 16 divides")],
    )
    def test_says_aloud_when_it_cannot_be_fused(
        self, flash: FlashAttention, size: int, dtype: Any, said: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        announce._warn.cache_clear()
        q, k, v = (_half(seed, 5, 2, size).astype(dtype) for seed in (1, 2, 3))
        with caplog.at_level(logging.WARNING, logger="qvl_core"):
            y = TABLE.attention(q, k, v, build_segments([5]), causal=True, scale=0.25)
            TABLE.attention(q, k, v, build_segments([5]), causal=True, scale=0.25)
        assert flash.calls == []
        assert [said in record.message for record in caplog.records] == [True]
        np.testing.assert_allclose(_wide(y), truth.attention(_wide(q), _wide(k), _wide(v), [5], True, 0.25), atol=HALF)

    def test_is_silent_when_it_is_fused(self, flash: FlashAttention, caplog: pytest.LogCaptureFixture) -> None:
        announce._warn.cache_clear()
        q, k, v = (_half(seed, 5, 2, 80) for seed in (1, 2, 3))
        TABLE.attention(q, k, v, build_segments([5]), causal=True, scale=0.25)
        assert caplog.records == []


def test_rms_norm_takes_the_first_of_the_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(x: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
        assert x.dtype == gamma.dtype, "one dtype"
        assert gamma.ndim <= x.ndim
        assert 0.0 < epsilon <= 1.0
        y = truth.rms_norm(_wide(x), _wide(gamma), epsilon)
        return Tensor(y.astype(np.float32)).astype(x.dtype), Tensor(np.zeros((*x.shape[:-1], 1), np.float32))

    monkeypatch.setattr(ops, "rms_norm", fake)
    x, weight = _half(1, 5, 16), _half(2, 16)
    y = TABLE.rms_norm(x, weight, 1e-6)
    assert y.dtype == ms.float16
    np.testing.assert_allclose(_wide(y), truth.rms_norm(_wide(x), _wide(weight), 1e-6), atol=HALF)


def test_swiglu_puts_the_gate_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(input: Tensor, dim: int = -1) -> Tensor:  # noqa: A002 - the documented name
        assert dim == -1
        left, right = np.split(_wide(input), 2, dim)
        return Tensor(truth.swiglu(left, right).astype(np.float32)).astype(input.dtype)

    monkeypatch.setattr(ops, "swiglu", fake)
    gate, up = _half(1, 5, 6), _half(2, 5, 6)
    np.testing.assert_allclose(_wide(TABLE.swiglu(gate, up)), truth.swiglu(_wide(gate), _wide(up)), atol=HALF)


def test_rope_lays_tokens_out_as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(x: Tensor, cos: Tensor, sin: Tensor, mode: int = 0) -> Tensor:
        assert mode == 0, "rotate-half"
        assert x.dtype == cos.dtype == sin.dtype, "one dtype"
        assert x.ndim == 4
        batch, tokens, heads, size = x.shape
        assert size % 2 == 0
        assert size < 896
        assert batch < 1000
        assert heads < 1000
        assert cos.shape == sin.shape == (1, tokens, 1, size), "BSND x wants 1S1D angles"
        y = truth.rope(_wide(x)[0], _wide(cos)[0, :, 0], _wide(sin)[0, :, 0])
        return Tensor(y[None].astype(np.float32)).astype(x.dtype)

    monkeypatch.setattr(ops, "rotary_position_embedding", fake)
    angles = np.tile(np.random.default_rng(5).uniform(0.0, 30.0, (5, 8)), 2).astype(np.float32)
    cos, sin = Tensor(np.cos(angles)), Tensor(np.sin(angles))
    x = _half(1, 5, 3, 16)
    y = TABLE.rope(x, cos, sin)
    assert y.dtype == ms.float16
    np.testing.assert_allclose(_wide(y), truth.rope(_wide(x), _wide(cos), _wide(sin)), atol=HALF)


def test_embedding_passes_ids_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(input: Tensor, weight: Tensor) -> Tensor:  # noqa: A002 - the documented name
        assert input.dtype in (ms.int32, ms.int64)
        return Tensor(weight.asnumpy()[input.asnumpy()])

    monkeypatch.setattr(mint.nn.functional, "embedding", fake)
    weight, ids = _half(1, 7, 4), Tensor(np.array([3, 0, 3], np.int32))
    assert (TABLE.embedding(weight, ids).asnumpy() == weight.asnumpy()[[3, 0, 3]]).all()


def test_gelu_is_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(input: Tensor, *, approximate: str = "none") -> Tensor:  # noqa: A002 - the documented name
        assert approximate == "none"
        return Tensor(truth.gelu(_wide(input)).astype(np.float32)).astype(input.dtype)

    monkeypatch.setattr(mint.nn.functional, "gelu", fake)
    x = _half(1, 5, 6)
    np.testing.assert_allclose(_wide(TABLE.gelu(x)), truth.gelu(_wide(x)), atol=HALF)


def test_cross_entropy_is_fp32_and_per_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(
        input: Tensor,  # noqa: A002 - the documented name
        target: Tensor,
        weight: None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> Tensor:
        assert input.dtype == ms.float32
        assert (reduction, ignore_index, label_smoothing, weight) == ("none", -100, 0.0, None)
        return Tensor(truth.cross_entropy(_wide(input), target.asnumpy()).astype(np.float32))

    monkeypatch.setattr(mint.nn.functional, "cross_entropy", fake)
    logits, labels = _half(1, 3, 7), Tensor(np.array([1, -100, 6], np.int32))
    y = TABLE.cross_entropy(logits, labels)
    np.testing.assert_allclose(y.asnumpy(), truth.cross_entropy(_wide(logits), labels.asnumpy()), atol=1e-5)
