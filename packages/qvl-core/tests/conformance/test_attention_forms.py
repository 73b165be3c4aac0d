"""Both Ascend forms of attention over drawn plans: in the documented domain the operation, outside the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("mindspore", reason="kernels need mindspore")

import mindspore as ms
from mindspore import Tensor, mint, ops
from qvl_core.conformance import truth
from qvl_core.conformance.contract_cases import attention_case, contract_cases
from qvl_core.conformance.contracts import check_contract, stand_ins
from qvl_core.kernels import select
from qvl_core.kernels.segments import MOST_MASKED_ROWS, build_segments

TABLES = {"tnd": select.ascend_table(), "bsnd": select.bsnd_table()}
ATTENTION = [case for case in contract_cases() if case.kernel == "attention"]


def documented_domain(dtype: str, heads: int, size: int, longest: int) -> bool:
    """What MindSpore's page of the operation says, written down a second time."""
    return dtype in ("float16", "bfloat16") and 1 <= heads <= 256 and size in range(16, 513, 16) and longest <= 2**19


def rounding_of_scores(q: np.ndarray, k: np.ndarray, scale: float) -> float:
    """Return the most by which a score differs once it is rounded to float16, as the reference's are: weights follow.

    Over 16 entries and more they are sums in which large entries are rare; a single product of two is not.
    """
    largest = np.linalg.norm(q, axis=-1).max() * np.linalg.norm(k, axis=-1).max() * scale
    return float(largest) * 2.0**-11


@pytest.mark.parametrize("form", TABLES)
@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.sampled_from([0, 1, 2, 5, 16, 64, 65]), min_size=1, max_size=12).filter(any),
    heads=st.sampled_from([(1, 1), (2, 1), (2, 2), (7, 1), (12, 3), (28, 4), (256, 2), (257, 1)]),
    size=st.sampled_from([1, 8, 15, 16, 17, 32, 72, 80, 112, 128, 144]),
    dtype=st.sampled_from(["float16", "float32"]),
    causal=st.booleans(),
)
@example(lengths=[1], heads=(1, 1), size=80, dtype="float16", causal=False)
@example(lengths=[0, 3, 0], heads=(2, 1), size=16, dtype="float16", causal=True)
@example(lengths=[2, 65, 16, 65], heads=(256, 2), size=1, dtype="float16", causal=False)
def test_drawn_plans(
    form: str, lengths: list[int], heads: tuple[int, int], size: int, dtype: str, causal: bool
) -> None:
    fused = documented_domain(dtype, heads[0], size, max(lengths))
    kept = tuple(length for length in lengths if length)
    case = attention_case(np.random.default_rng(0), kept, *heads, size, causal=causal, fused=fused, label="drawn")
    if dtype == "float32":
        case = replace(case, single=(0, 1, 2))
    check = check_contract(case, TABLES[form])
    if size < 16 and dtype == "float16":
        check = replace(check, tolerance=check.tolerance + rounding_of_scores(*case.inputs[:2], size**-0.5))
    assert check.passed, f"{check.message} {check.error}"


@pytest.mark.parametrize("case", ATTENTION, ids=lambda case: case.label)
def test_bsnd_calls_are_as_documented_and_rely_on_nothing_else(case: Any) -> None:
    check = check_contract(case, TABLES["bsnd"])
    assert check.passed, f"{check.message} {check.error}"
    assert check.relies_on == ""


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.sampled_from([1, 7, 64, 1000, 2047, 2048, 2049, 5000]), min_size=1, max_size=40))
@example(lengths=[64] * 100)
@example(lengths=[2048, 1])
@example(lengths=[5000])
def test_masked_batches_hold_whole_segments_and_few_rows(lengths: list[int]) -> None:
    plan = build_segments(lengths)
    numbers = np.repeat(np.arange(len(lengths)), lengths)
    place = 0
    for (first, last), mask in zip(plan.masked_batches, plan.segment_masks, strict=True):
        assert first == place
        place = last
        own = numbers[first:last]
        assert first == 0 or numbers[first - 1] != own[0]
        assert last - first <= MOST_MASKED_ROWS or len(set(own)) == 1
        if mask is None:
            assert len(set(own)) == 1
        else:
            assert (mask.asnumpy() == (own[:, None] != own[None, :])).all()
    assert place == sum(lengths)


def test_like_batches_share_one_mask() -> None:
    masks = build_segments([64] * 96).segment_masks
    assert len(masks) == 3
    assert masks[0] is masks[1] is masks[2]


def test_long_frames_go_without_a_mask() -> None:
    case = attention_case(
        np.random.default_rng(0), (2049, 3, 4), 1, 1, 16, causal=False, fused=True, label="a long frame"
    )
    with stand_ins() as record:
        case.call(TABLES["bsnd"], *(Tensor(x.astype(np.float16)) for x in case.inputs))
    found = [(call.arguments["query"].shape[1], call.arguments["sparse_mode"]) for call in record]
    assert found == [(2049, 0), (7, 1)]


def _half(*shape: int) -> Tensor:
    return Tensor(np.random.default_rng(1).standard_normal(shape).astype(np.float16))


@pytest.mark.parametrize("form", TABLES)
@pytest.mark.parametrize(
    ("q", "k", "v", "lengths", "said"),
    [
        ((5, 3, 16), (5, 2, 16), (5, 2, 16), [5], "2 key heads do not divide 3 query heads"),
        ((5, 2, 16), (5, 2, 16), (5, 2, 16), [4], "5 tokens, and the segments are planned for 4"),
        ((5, 2, 16), (5, 2, 16), (5, 2, 16), [6], "5 tokens, and the segments are planned for 6"),
        ((5, 2, 16), (4, 2, 16), (4, 2, 16), [5], "do not belong together"),
        ((5, 2, 16), (5, 2, 32), (5, 2, 32), [5], "do not belong together"),
        ((5, 2, 16), (5, 2, 16), (5, 1, 16), [5], "do not belong together"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("causal", [True, False])
def test_what_no_form_can_compute_is_refused_before_the_device_sees_it(
    form: str, q: Any, k: Any, v: Any, lengths: list[int], said: str, causal: bool
) -> None:
    with stand_ins() as record, pytest.raises((ValueError, IndexError), match=said):
        TABLES[form].attention(_half(*q), _half(*k), _half(*v), build_segments(lengths), causal=causal, scale=0.25)
    assert record == []


def _attend(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None, scale: float) -> Tensor:
    """Return [T, N, H] of one sequence with the operations of the CPU, one key head for each query head."""
    q, k, v = (x.swapaxes(0, 1).astype(ms.float32) for x in (q, k, v))
    scores = ops.BatchMatMul(transpose_b=True)(q, k) * scale
    if hidden is not None:
        scores = scores + hidden.astype(ms.float32) * -1e30
    return ops.BatchMatMul()(ops.softmax(scores, -1), v).swapaxes(0, 1)


# ruff: noqa: RUF005 - jit reads neither [*pieces, piece] nor append.
def _played(
    query: Tensor, key: Tensor, value: Tensor, head_num: int, attn_mask: Tensor | None = None,
    actual_seq_qlen: Any = None, actual_seq_kvlen: Any = None, scalar_value: float = 1.0,
    next_tokens: int = 2147483647, input_layout: str = "BSH", sparse_mode: int = 0,
) -> Tensor:  # fmt: skip
    """Play the operation so that jit can compile it: modes 0 and 1 in BSND, modes 0 and 3 in TND."""
    if input_layout == "BSND":
        return _attend(query[0], key[0], value[0], attn_mask, scalar_value).expand_dims(0).astype(query.dtype)
    pieces: list[Tensor] = []
    first = 0
    for last in actual_seq_qlen:
        hidden = attn_mask[: last - first, : last - first] if sparse_mode == 3 else None
        piece = _attend(query[first:last], key[first:last], value[first:last], hidden, scalar_value)
        pieces = pieces + [piece]
        first = last
    return mint.cat(pieces, 0).astype(query.dtype)


@pytest.mark.parametrize(("form", "causal"), [("tnd", True), ("tnd", False), ("bsnd", False)])
def test_a_form_compiles_inside_of_its_domain(form: str, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "flash_attention_score", _played)
    lengths = [64, 3, 40] if form == "tnd" else [64] * 33 + [3, 2100]
    segments = build_segments(lengths)
    random = np.random.default_rng(3)
    q, k, v = (Tensor(random.standard_normal((sum(lengths), 1, 16)).astype(np.float16)) for _ in range(3))
    attention: Callable[..., Tensor] = TABLES[form].attention

    def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, segments, causal=causal, scale=0.25)

    wide = [x.astype(ms.float32).asnumpy().astype(np.float64) for x in (q, k, v)]
    expected = truth.attention(*wide, lengths, causal, 0.25)
    for run in (attended, ms.jit(attended)):
        np.testing.assert_allclose(run(q, k, v).astype(ms.float32).asnumpy(), expected, atol=5e-3)


@pytest.mark.parametrize("form", TABLES)
@pytest.mark.parametrize("scale", [1, np.float32(0.25), np.float64(0.25), 0.0])
def test_a_scale_of_any_kind_of_number_goes_in_as_a_float(form: str, scale: Any) -> None:
    segments = build_segments([3, 2])
    q = Tensor(np.ones((5, 1, 16), np.float16))
    with stand_ins() as record:
        TABLES[form].attention(q, q, q, segments, causal=False, scale=scale)
    assert [type(call.arguments["scalar_value"]) for call in record] == [float]


def test_rotation_tables_in_half_precision_are_widened() -> None:
    x, angles = _half(3, 2, 16), np.random.default_rng(2).uniform(0.0, 3.0, (3, 16))
    cos, sin = Tensor(np.cos(angles).astype(np.float16)), Tensor(np.sin(angles).astype(np.float16))
    with stand_ins() as record:
        y = TABLES["tnd"].rope(x, cos, sin)
    assert len(record) == 1
    expected = select.reference_table().rope(x, cos, sin)
    np.testing.assert_allclose(y.astype(ms.float32).asnumpy(), expected.astype(ms.float32).asnumpy(), atol=5e-3)


def test_halves_of_two_widths_are_not_joined() -> None:
    with stand_ins() as record, pytest.raises((ValueError, RuntimeError)):
        TABLES["tnd"].swiglu(_half(2, 3), _half(2, 5)).asnumpy()
    assert record == []


def test_no_width_is_outside() -> None:
    with stand_ins() as record:
        TABLES["tnd"].swiglu(_half(2, 0), _half(2, 0))
    assert record == []


def _bsnd(**changes: Any) -> Callable[..., Tensor]:
    """Give a BSND form of one call, with arguments changed."""

    def attention(q: Tensor, k: Tensor, v: Tensor, segments: Any, *, causal: bool, scale: float) -> Tensor:
        arguments: dict[str, Any] = {
            "attn_mask": segments.segment_masks[0], "scalar_value": scale, "input_layout": "BSND", "sparse_mode": 1,
        }  # fmt: skip
        batched = (x.expand_dims(0) for x in (q, k, v))
        return ops.flash_attention_score(*batched, q.shape[1], **(arguments | changes)).squeeze(0)

    return attention


def _mask(hidden: np.ndarray) -> Tensor:
    return Tensor(hidden)


APART = np.repeat([0, 1], [5, 7])[:, None] != np.repeat([0, 1], [5, 7])[None, :]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"attn_mask": _mask(APART.astype(np.uint8))}, None),
        ({"sparse_mode": 0}, None),
        ({"attn_mask": _mask(APART[None, None])}, None),
        ({"attn_mask": _mask(~APART)}, ""),
        ({"attn_mask": _mask(np.zeros_like(APART))}, ""),
        ({"attn_mask": None, "sparse_mode": 0}, ""),
        ({"scalar_value": 1.0}, ""),
        ({"attn_mask": None}, "sparse_mode 1 without its mask"),
        ({"attn_mask": _mask(np.ones_like(APART))}, "no query may be left without a key"),
        ({"attn_mask": _mask(APART.astype(np.float32))}, "bool or uint8"),
        ({"attn_mask": _mask(APART[:, :5])}, "the mask is (S1, S2)"),
        ({"attn_mask": build_segments([1]).compressed_causal_mask, "sparse_mode": 3}, "only sparse modes 0 and 1"),
        ({"sparse_mode": 0, "next_tokens": 0}, "token limits"),
        ({"actual_seq_qlen": (5, 12)}, "cumulative ends are TND's"),
        ({"input_layout": "BNSD"}, "only the TND and BSND layouts"),
        ({"keep_prob": 0.5}, "no dropout"),
    ],
)
def test_wrong_calls_in_bsnd_are_seen(changes: dict[str, Any], said: str | None) -> None:
    case = attention_case(np.random.default_rng(0), (5, 7), 4, 2, 16, causal=False, fused=True, label="changed")
    check = check_contract(case, replace(TABLES["bsnd"], attention=_bsnd(**changes)))
    if said is None:
        assert check.passed, check.message
    else:
        assert not check.passed
        assert said in check.message
