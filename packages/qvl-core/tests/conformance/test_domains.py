"""The domains of the Ascend forms: what the documentation says, written down a second time, and their borders drawn."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("mindspore", reason="kernels need mindspore")

from mindspore import Tensor
from qvl_core.conformance import cases, truth
from qvl_core.conformance.cases import Case
from qvl_core.conformance.contract_cases import contract_cases
from qvl_core.conformance.contracts import check_contract, stand_ins
from qvl_core.kernels import select
from qvl_core.kernels.domain import DOMAINS

TABLE = select.ascend_table()
CASES = contract_cases()


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


@pytest.mark.parametrize(
    ("eps", "fused"), [(1e-6, True), (1.0, True), (1, True), (0.0, False), (0, False), (1.5, False)]
)
def test_an_epsilon_that_the_operation_refuses_runs_the_reference(
    eps: float, fused: bool, caplog: pytest.LogCaptureFixture
) -> None:
    case = next(case for case in CASES if case.label == "contract: width of the vision tower")
    x, weight = (Tensor(values.astype(np.float16)) for values in case.inputs)
    with stand_ins() as record:
        y = TABLE.rms_norm(x, weight, eps)
    assert [type(call.arguments["epsilon"]) for call in record] == ([float] if fused else [])
    expected = truth.rms_norm(case.inputs[0].astype(np.float64), case.inputs[1].astype(np.float64), float(eps))
    np.testing.assert_allclose(y.asnumpy(), expected, rtol=2e-2, atol=2e-2)


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
