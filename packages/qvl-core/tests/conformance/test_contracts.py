"""The contracts of the Ascend forms: right calls pass, and every way of building them wrongly is seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("mindspore", reason="kernels need mindspore")

import mindspore as ms
from mindspore import Tensor, mint, ops
from qvl_core.conformance import cases, documented, signatures, truth
from qvl_core.conformance.__main__ import main
from qvl_core.conformance.cases import Case, all_cases
from qvl_core.conformance.checks import check_case
from qvl_core.conformance.contract_cases import attention_case, contract_cases
from qvl_core.conformance.contracts import check_contract, stand_ins
from qvl_core.conformance.documented import BrokenRuleError
from qvl_core.kernels import select
from qvl_core.kernels.attention import NO_LIMIT
from qvl_core.kernels.domain import DOMAINS
from qvl_core.kernels.segments import Segments, build_segments

TABLE = select.ascend_table()
CASES = contract_cases()
# The small cases of the suite whose kernels have a domain, in it: attention of head size 16 and so on.
SMALL = [case for case in all_cases() if case.kernel in DOMAINS and case.label != "no patch"]


@pytest.mark.parametrize("case", [*CASES, *SMALL], ids=lambda case: f"{case.kernel}, {case.label}")
def test_the_call_is_as_documented(case: Case) -> None:
    check = check_contract(case, TABLE)
    assert check.passed, f"{check.message} {check.error}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kernel}, {case.label}")
def test_the_reference_conforms_on_the_same_cases(case: Case) -> None:
    # Gradients of the large ones cost seconds, and are those of the small ones.
    small = replace(case, gradients=case.gradients and case.inputs[0].size < 5000)
    checks = check_case(small, select.reference_table(), "float32", jit=False)
    assert [check for check in checks if not check.passed] == []


def test_every_domain_has_cases_on_both_sides_of_its_borders() -> None:
    assert {case.kernel for case in CASES} == set(DOMAINS)
    outside = {case.kernel for case in CASES if not case.fused}
    assert {"attention", "rms_norm", "rope", "patch_embed"} <= outside


# What the documentation says, written down a second time: the smallest and the largest size inside, and one outside.
BORDERS = {
    "attention": (
        ((16, 1, 1), (80, 16, 64), (512, 256, 524_288)),
        ((16, 1, 524_289), (512, 257, 1), (528, 1, 1), (24, 1, 1), (0, 1, 1)),
    ),
    "rms_norm": (((1, 1, 1), (10**9, 10**6, 8)), ((0, 1, 1), (1, 1, 9))),
    "rope": (((1, 1, 2), (10**9, 999, 894)), ((0, 1, 2), (1, 1000, 2), (1, 1, 896), (1, 1, 3))),
    "swiglu": (((1, 1), (10**9, 10**6)), ((0, 1),)),
    "cross_entropy": (((1, 1), (10**9, 10**6)), ((0, 1),)),
    "patch_embed": (((1, 1), (10**9, 10**6)), ((0, 1),)),
    "adamw_update": (((1,), (10**9,)), ((0,),)),
}  # fmt: skip


@pytest.mark.parametrize("kernel", DOMAINS)
def test_the_borders_of_a_domain(kernel: str) -> None:
    domain, (inside, outside) = DOMAINS[kernel], BORDERS[kernel]
    dtype = domain.dtypes[0]
    assert [domain.refuse([dtype], sizes) for sizes in inside] == ["" for _ in inside]
    assert all(domain.refuse([dtype], sizes) for sizes in outside)


def test_the_dtypes_of_the_domains() -> None:
    taken = {kernel: domain.dtypes for kernel, domain in DOMAINS.items()}
    assert taken.pop("attention") == ("float16", "bfloat16")
    assert taken.pop("adamw_update") == ("float32",)
    assert set(taken.values()) == {("float16", "bfloat16", "float32")}


def test_the_operations_are_back_afterwards() -> None:
    before = ops.rms_norm, ops.flash_attention_score
    x, gamma = Tensor(np.ones((2, 3), np.float32)), Tensor(np.ones(2, np.float32))
    with pytest.raises(BrokenRuleError), stand_ins():
        ops.rms_norm(x, gamma)
    assert (ops.rms_norm, ops.flash_attention_score) == before


class TestAttention:
    def test_windows_of_head_size_80_go_without_a_mask(self) -> None:
        case = next(case for case in CASES if "windows of an image" in case.label)
        with stand_ins() as record:
            case.call(TABLE, *(Tensor(x.astype(np.float16)) for x in case.inputs))
        (call,) = record
        given = call.arguments
        assert (given["input_layout"], given["sparse_mode"], given["attn_mask"]) == ("TND", 0, None)
        assert given["actual_seq_qlen"] == (64, 128, 160, 224, 288, 320, 352, 368)
        assert given["actual_seq_kvlen"] == given["actual_seq_qlen"]
        assert (given["pre_tokens"], given["next_tokens"]) == (NO_LIMIT, NO_LIMIT)
        assert given["scalar_value"] == 80**-0.5
        assert given["head_num"] == 16

    def test_packed_samples_have_the_compressed_triangle(self) -> None:
        case = next(case for case in CASES if "7B" in case.label and case.kernel == "attention")
        with stand_ins() as record:
            case.call(TABLE, *(Tensor(x.astype(np.float16)) for x in case.inputs))
        (call,) = record
        given = call.arguments
        assert (given["sparse_mode"], given["next_tokens"], given["attn_mask"].shape) == (3, 0, (2048, 2048))
        assert given["actual_seq_qlen"] == (33, 34, 51, 111)
        assert given["key"].shape == (111, 4, 128)

    @pytest.mark.parametrize(("count", "calls"), [(1024, [1024]), (1025, [1024, 1])])
    def test_1024_segments_are_one_call(self, count: int, calls: list[int]) -> None:
        case = next(case for case in CASES if f"{count} windows" in case.label)
        with stand_ins() as record:
            case.call(TABLE, *(Tensor(x.astype(np.float16)) for x in case.inputs))
        assert [len(call.arguments["actual_seq_qlen"]) for call in record] == calls

    @settings(max_examples=40, deadline=None)
    @given(
        lengths=st.lists(st.integers(1, 9), min_size=1, max_size=9),
        kv_heads=st.integers(1, 3),
        shared=st.sampled_from([1, 2, 7]),
        size=st.sampled_from([8, 15, 16, 17, 72, 80, 128, 511, 512, 513, 528]),
        causal=st.booleans(),
    )
    @example(lengths=[1], kv_heads=1, shared=1, size=16, causal=True)
    def test_both_sides_of_the_borders(
        self, lengths: list[int], kv_heads: int, shared: int, size: int, causal: bool
    ) -> None:
        case = attention_case(
            np.random.default_rng(0), tuple(lengths), kv_heads * shared, kv_heads, size,
            causal=causal, fused=size % 16 == 0 and size <= 512, label="drawn",
        )  # fmt: skip
        check = check_contract(case, TABLE)
        assert check.passed, f"{check.message} {check.error}"

    @settings(max_examples=60, deadline=None)
    @given(lengths=st.lists(st.sampled_from([1, 7, 512, 2**19, 2**20, 2**20 + 1]), min_size=1, max_size=40))
    @example(lengths=[1] * 1024)
    @example(lengths=[1] * 1025)
    @example(lengths=[2**19, 2**19, 1])
    def test_calls_hold_at_most_1024_segments_and_a_million_tokens(self, lengths: list[int]) -> None:
        # The plan alone: nobody builds tensors of that size here.
        plan = Segments(lengths=tuple(lengths), groups=(), order=None, inverse=None, most_scores=1)
        rebuilt: list[int] = []
        for first, ends in plan.fused_batches:
            assert first == sum(rebuilt)
            assert len(ends) <= 1024
            assert ends[-1] <= 2**20 or len(ends) == 1
            rebuilt += np.diff((0, *ends)).tolist()
        assert rebuilt == lengths


# Ways of building a call wrongly, each with the words that its refusal has to say.
def _with(**changes: Any) -> Callable[..., Tensor]:
    def attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, *, causal: bool, scale: float) -> Tensor:
        ends = segments.fused_batches[0][1]
        arguments: dict[str, Any] = {
            "attn_mask": segments.compressed_causal_mask, "actual_seq_qlen": ends, "actual_seq_kvlen": ends,
            "scalar_value": scale, "next_tokens": 0, "input_layout": "TND", "sparse_mode": 3,
        }  # fmt: skip
        return ops.flash_attention_score(q, k, v, q.shape[1], **(arguments | changes))

    return attention


def _triangle(value: int, diagonal: int) -> Tensor:
    above = np.triu(np.ones((2048, 2048), np.bool_), diagonal)
    return Tensor(above if value else ~above)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"actual_seq_qlen": (0, 5, 12)}, "without a leading 0"),
        ({"actual_seq_qlen": (5, 7)}, "the last end is the number of rows"),
        ({"actual_seq_kvlen": (5, 5, 12)}, "no sequence without a key"),
        ({"actual_seq_kvlen": (12,)}, "as many query as key sequences"),
        ({"actual_seq_qlen": Tensor(np.array([5, 12]))}, "a tuple or list of int"),
        ({"attn_mask": _triangle(0, 1)}, "1 (hidden) above the diagonal"),
        ({"attn_mask": _triangle(1, 0)}, "1 (hidden) above the diagonal"),
        ({"attn_mask": Tensor(np.triu(np.ones((12, 12), np.bool_), 1))}, "2048 x 2048"),
        ({"attn_mask": Tensor(np.triu(np.ones((2048, 2048), np.float32), 1))}, "bool or uint8"),
        ({"attn_mask": None}, "sparse_mode 3 without its mask"),
        ({"sparse_mode": 0}, "sparse_mode 2 or 3, not 0"),
        ({"sparse_mode": 4}, "sparse_mode 2 or 3, not 4"),
        ({"next_tokens": NO_LIMIT}, "next_tokens is 0"),
        ({"pre_tokens": 3}, "pre_tokens is not less"),
        ({"input_layout": "BSND"}, "BSND tensors have 4 dims"),
        ({"input_layout": "BNSD"}, "only the TND and BSND layouts"),
        ({"scalar_value": 1}, "scalar_value is a double"),
        ({"keep_prob": 0.9}, "no dropout"),
        ({"scale": 0.25}, "unexpected keyword argument 'scale'"),
    ],
)
def test_a_wrong_argument_breaks_the_contract(changes: dict[str, Any], said: str) -> None:
    case = attention_case(np.random.default_rng(0), (5, 7), 4, 2, 16, causal=True, fused=True, label="wrong")
    check = check_contract(case, replace(TABLE, attention=_with(**changes)))
    assert not check.passed
    assert said in check.message


def test_the_right_arguments_do_not() -> None:
    case = attention_case(np.random.default_rng(0), (5, 7), 4, 2, 16, causal=True, fused=True, label="right")
    assert check_contract(case, replace(TABLE, attention=_with())).passed


@pytest.mark.parametrize(
    "changes",
    [
        {"scalar_value": 1.0},
        {"attn_mask": None, "sparse_mode": 0},
        {"actual_seq_qlen": (12,), "actual_seq_kvlen": (12,)},
    ],
)  # fmt: skip
def test_an_allowed_call_that_means_something_else_has_wrong_values(changes: dict[str, Any]) -> None:
    case = attention_case(np.random.default_rng(0), (5, 7), 4, 2, 16, causal=True, fused=True, label="other")
    check = check_contract(case, replace(TABLE, attention=_with(**changes)))
    assert not check.passed
    assert check.message == ""
    assert check.error > check.tolerance


def test_a_form_that_does_not_call_its_operation_breaks_the_contract() -> None:
    case = next(case for case in CASES if case.kernel == "swiglu")
    check = check_contract(case, select.reference_table())
    assert "ops.swiglu was not called" in check.message


def first_case(kernel: str, words: str) -> Case:
    return next(case for case in CASES if case.kernel == kernel and words in case.label)


# Forms that are wrong in one way each, and what is seen: a broken rule, or values that are not the definition's ("").
WRONG_FORMS: list[tuple[str, str, Callable[..., Any], str]] = [
    ("rms_norm", "7B", lambda x, w, eps: ops.rms_norm(x, gamma=w, epsilon=2.0)[0], "epsilon is a float in (0, 1]"),
    ("rms_norm", "7B", lambda x, w, eps: ops.rms_norm(x, gamma=w, epsilon=0.5)[0], ""),
    ("rms_norm", "7B", lambda x, w, eps: ops.rms_norm(x, gamma=w.astype(ms.float32), epsilon=eps)[0], "one dtype"),
    ("rms_norm", "7B", lambda x, w, eps: ops.rms_norm(x, gamma=w[:8], epsilon=eps)[0], "the last dims of x"),
    ("swiglu", "odd", lambda gate, up: ops.swiglu(ops.cat((up, gate), -1), -1), ""),
    ("swiglu", "3-D", lambda gate, up: ops.swiglu(ops.cat((gate, up), -1), 0), ""),
    ("swiglu", "odd", lambda gate, up: ops.swiglu(gate, -1), "an even number of entries"),
    ("rope", "smallest", lambda x, c, s: ops.rotary_position_embedding(x, c, s, 0), "one dtype"),
    (
        "rope",
        "7B",
        lambda x, c, s: rotated(x, c.expand_dims(0).expand_dims(0), s.expand_dims(0).expand_dims(0)),
        "BSND",
    ),
    ("rope", "7B", lambda x, c, s: rotated(x, laid(c), laid(s), mode=1), "mode 0 is rotate-half"),
    ("rope", "7B", lambda x, c, s: rotated(x, laid(s), laid(c)), ""),
    ("rope", "7B", lambda x, c, s: rotated(x, laid(c) * 2.0, laid(s)), "cos and sin in [-1, 1]"),
    ("cross_entropy", "whole", lambda x, t: mint.nn.functional.cross_entropy(x, t), "one loss a token"),
    ("cross_entropy", "whole", lambda x, t: entropy(x, t.astype(ms.float32)), "int32 or int64"),
    ("cross_entropy", "whole", lambda x, t: entropy(x, t - 101), "labels in [0, C)"),
    ("cross_entropy", "whole", lambda x, t: entropy(x, t, label_smoothing=0.1), "no smoothing"),
    ("cross_entropy", "two", lambda x, t: mint.nn.functional.cross_entropy(x, t, reduction="none"), "gives float16"),
    ("cross_entropy", "some", lambda x, t: entropy(x, ops.maximum(t, 0)), ""),
    ("rms_norm", "near the", lambda x, w, eps: ops.rms_norm(x, gamma=w, epsilon=1e-5)[0], ""),
    ("patch_embed", "true", lambda x, w: mint.nn.functional.linear(x, w.swapaxes(0, 1)), "weight (out, in)"),
    ("patch_embed", "true", lambda x, w: mint.nn.functional.linear(x, w, w[:, 0]), ""),
]


def laid(angles: Tensor) -> Tensor:
    return angles.expand_dims(0).expand_dims(2)


def rotated(x: Tensor, cos: Tensor, sin: Tensor, mode: int = 0) -> Tensor:
    return ops.rotary_position_embedding(x.astype(ms.float32).expand_dims(0), cos, sin, mode).squeeze(0).astype(x.dtype)


def entropy(logits: Tensor, labels: Tensor, **more: Any) -> Tensor:
    return mint.nn.functional.cross_entropy(logits.astype(ms.float32), labels, reduction="none", **more)


@pytest.mark.parametrize(("kernel", "words", "form", "said"), WRONG_FORMS)
def test_a_wrong_form_breaks_the_contract(kernel: str, words: str, form: Callable[..., Any], said: str) -> None:
    check = check_contract(first_case(kernel, words), replace(TABLE, **{kernel: form}))
    assert not check.passed
    assert said in check.message
    assert bool(check.message) == bool(said)


def test_an_optimizer_step_with_its_eps_in_another_place_has_wrong_values() -> None:
    def form(p: Any, m: Any, v: Any, gradient: Tensor, *, step: int, eps: float, **rest: float) -> None:
        # The operation's own epsilon stands beside a root that is smaller by this factor.
        TABLE.adamw_update(p, m, v, gradient, step=step, eps=eps / (1.0 - rest["beta2"] ** step) ** 0.5, **rest)

    check = check_contract(first_case("adamw_update", "epsilon"), replace(TABLE, adamw_update=form))
    assert not check.passed
    assert check.message == ""


class TestBorders:
    @settings(max_examples=25, deadline=None)
    @given(heads=st.sampled_from([1, 998, 999, 1000, 1001]), size=st.sampled_from([2, 4, 892, 894, 896, 898]))
    def test_rope(self, heads: int, size: int) -> None:
        random = np.random.default_rng(1)
        angles = np.tile(random.uniform(0.0, 9.0, (1, size // 2)), 2)
        inputs = (random.standard_normal((1, heads, size)), np.cos(angles), np.sin(angles))
        case = Case(
            kernel="rope", label="drawn", inputs=tuple(x.astype(np.float32) for x in inputs), call=cases.call_rope,
            definition=truth.rope, single=(1, 2), fused=heads < 1000 and size < 896,
        )  # fmt: skip
        check = check_contract(case, TABLE)
        assert check.passed, f"{check.message} {check.error}"

    @settings(max_examples=25, deadline=None)
    @given(shape=st.lists(st.integers(1, 3), min_size=1, max_size=10), width=st.integers(2, 9))
    def test_rms_norm(self, shape: list[int], width: int) -> None:
        random = np.random.default_rng(2)
        inputs = (random.standard_normal((*shape, width)), random.standard_normal(width))
        case = Case(
            kernel="rms_norm", label="drawn", inputs=tuple(x.astype(np.float32) for x in inputs),
            call=cases.call_rms_norm, definition=partial(truth.rms_norm, eps=1e-6), fused=len(shape) < 8,
        )  # fmt: skip
        check = check_contract(case, TABLE)
        assert check.passed, f"{check.message} {check.error}"


@pytest.mark.parametrize("mode", [2, 3])
@settings(max_examples=30, deadline=None)
@given(queries=st.integers(1, 12), more=st.integers(0, 5))
def test_masks_of_the_modes(mode: int, queries: int, more: int) -> None:
    arguments = {
        "sparse_mode": mode, "attn_mask": build_segments([1]).compressed_causal_mask, "next_tokens": 0,
        "pre_tokens": NO_LIMIT,
    }  # fmt: skip
    hidden = documented.hidden_by(arguments, queries, queries + more)
    for i in range(queries):
        # Mode 2 lets query i see keys 0 to i; mode 3 as many keys more as there are more keys than queries.
        seen = i + 1 if mode == 2 else i + 1 + more
        assert (~hidden[i]).sum() == seen
        assert not hidden[i, :seen].any()


class TestSignatures:
    def test_the_installed_mindspore_has_the_recorded_ones(self) -> None:
        assert signatures.differences() == ()

    def test_the_installed_mindspore_is_one_of_those_that_were_looked_at(self) -> None:
        assert ms.__version__ in signatures.SEEN_ON

    def test_every_domain_and_model_is_recorded(self) -> None:
        assert set(signatures.RECORDED) == set(documented.MODELS) == {x.operation for x in DOMAINS.values()}

    def test_a_recorded_text_is_the_signature_that_it_prints(self) -> None:
        for name, recorded in signatures.RECORDED.items():
            assert str(signatures.recorded_signature(name)) == recorded.text

    def test_the_announced_rms_norm_is_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def announced(input: Any, normalized_shape: Any, weight: Any = None, eps: float = 1e-6) -> None: ...  # noqa: A002

        monkeypatch.setattr(ops, "rms_norm", announced)
        (found,) = signatures.differences()
        assert found.startswith("mindspore.ops.rms_norm(input")
        assert found.endswith("the calls are written for (x, gamma, epsilon=1e-06)")
        check = check_contract(next(case for case in CASES if case.kernel == "rms_norm" and case.fused), TABLE)
        assert "missing a required argument: 'normalized_shape'" in check.message

    def test_a_removed_operation_is_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(ops, "rotary_position_embedding")
        assert signatures.differences() == ("mindspore.ops.rotary_position_embedding is not in this MindSpore",)

    def test_a_removed_operation_breaks_its_own_contracts_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(ops, "rotary_position_embedding")
        first = {kernel: next(x for x in CASES if x.kernel == kernel and x.fused) for kernel in DOMAINS}
        checks = {kernel: check_contract(case, TABLE) for kernel, case in first.items()}
        assert [kernel for kernel, check in checks.items() if not check.passed] == ["rope"]
        assert "has no attribute 'rotary_position_embedding'" in checks["rope"].message
        assert check_contract(next(x for x in CASES if x.kernel == "rope" and not x.fused), TABLE).passed
        assert not hasattr(ops, "rotary_position_embedding")

    def test_adam_has_ten_inputs(self) -> None:
        assert len(ops.Adam.__mindspore_signature__) == len(signatures.recorded_signature("ops.Adam").parameters) == 10


def test_the_model_of_adam_is_the_operation() -> None:
    # The only fused operation that runs on CPU, so here the model is held against the real thing.
    random = np.random.default_rng(3)
    values = [random.standard_normal((5, 3)).astype(np.float32) for _ in range(4)]
    values[2] = np.abs(values[2])
    numbers = (0.81, 0.98, 1e-2, 0.9, 0.99, 1e-6)
    names = ("beta1_power", "beta2_power", "lr", "beta1", "beta2", "epsilon")
    given_ = dict(zip(("var", "m", "v", "gradient"), map(Tensor, values), strict=True)) | dict(
        zip(names, numbers, strict=True)
    )
    expected = documented.adam(given_)
    parameters = [ms.Parameter(Tensor(x.copy())) for x in values[:3]]
    ops.Adam()(*parameters, *(Tensor(x, ms.float32) for x in numbers), Tensor(values[3]))
    for parameter, value in zip(parameters, expected, strict=True):
        np.testing.assert_allclose(parameter.asnumpy(), value, rtol=2e-5, atol=1e-6)


# Attention that is fused, and whether its calls go without a mask: CANN's rule, not MindSpore's docstring.
FULL = {case.label: "window" in case.label or "frames" in case.label for case in CASES if case.kernel == "attention"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kernel}, {case.label}")
def test_contracts_that_rely_on_the_rule_of_cann_are_marked(case: Case) -> None:
    check = check_contract(case, TABLE)
    wanted = case.kernel == "attention" and FULL[case.label]
    assert ("docstring wants the triangle" in check.relies_on) == wanted


class TestCommand:
    def test_tells_that_they_hold(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--contracts"]) == 0
        *relying, last = capsys.readouterr().out.splitlines()
        # Those of attention twice: its other form has the same cases.
        count = len(CASES) + sum(case.kernel == "attention" for case in CASES)
        assert last == f"the contracts hold: {count} calls, 0 wrong; nothing was run on a device"
        labels = [line.partition(" DOCSTRING attention, ")[2].partition(": relies on CANN: ")[0] for line in relying]
        assert labels == [label for label, full in FULL.items() if full]

    def test_tells_what_does_not(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        def renamed(x: Any, *, axis: int = -1) -> None: ...

        monkeypatch.setattr(ops, "swiglu", renamed)
        assert main(["--contracts"]) == 1
        out = capsys.readouterr().out
        assert "FAILED signature: mindspore.ops.swiglu(x" in out
        assert "FAILED swiglu, contract: odd width: TypeError" in out
        assert "THE CONTRACTS DO NOT HOLD" in out
