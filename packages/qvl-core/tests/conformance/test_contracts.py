"""The contracts of the Ascend forms: the calls that they build pass, and mean what the reference computes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("mindspore", reason="kernels need mindspore")

from mindspore import Tensor, ops
from qvl_core.conformance.__main__ import main
from qvl_core.conformance.cases import Case, all_cases
from qvl_core.conformance.checks import check_case
from qvl_core.conformance.contract_cases import attention_case, contract_cases
from qvl_core.conformance.contracts import check_contract, stand_ins
from qvl_core.conformance.documented import BrokenRuleError
from qvl_core.kernels import select
from qvl_core.kernels.attention import NO_LIMIT
from qvl_core.kernels.domain import DOMAINS
from qvl_core.kernels.segments import Segments

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
