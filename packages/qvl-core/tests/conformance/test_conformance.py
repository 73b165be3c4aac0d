"""The conformance suite: it passes on what we ship, and it can fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mindspore", reason="the conformance suite needs mindspore")

from mindspore import Tensor
from qvl_core.conformance.__main__ import main
from qvl_core.conformance.cases import all_cases
from qvl_core.conformance.checks import Check, check_case
from qvl_core.conformance.suite import render, run_suite
from qvl_core.kernels import select

TABLE = select.reference_table()
# One compiled case for each kernel keeps this under its time; the command compiles them all.
COMPILED = {case.kernel: case.label for case in reversed(all_cases()) if case.jit}


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: f"{case.kernel}, {case.label}")
def test_the_reference_conforms(case) -> None:  # type: ignore[no-untyped-def]
    checks = check_case(case, TABLE, "float32", jit=COMPILED.get(case.kernel) == case.label)
    assert checks
    assert [check for check in checks if not check.passed] == []


@pytest.mark.parametrize("kernel", ["rms_norm", "rope", "cross_entropy"])
def test_the_reference_conforms_in_half_precision(kernel: str) -> None:
    for case in all_cases():
        if case.kernel == kernel:
            assert [x for x in check_case(case, TABLE, "float16", jit=False) if not x.passed] == []


def test_every_kernel_has_cases() -> None:
    assert {case.kernel for case in all_cases()} == {name for name in vars(TABLE) if name != "name"}


def test_every_fault_is_caught() -> None:
    result = run_suite(TABLE, "float32", jit=False, kernels=["rope", "swiglu", "gelu", "cross_entropy", "merge_tokens"])
    assert result.passed
    assert len(result.self_tests) == 5
    assert all(test.caught_by for test in result.self_tests)


def test_a_fault_of_cpu_operations_is_not_expected_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvl_core.conformance.suite.current_device", lambda: "ascend")
    result = run_suite(TABLE, "float32", jit=False, kernels=["rope", "gelu"])
    assert [test.kernel for test in result.self_tests] == ["gelu"]


def test_a_wrong_gradient_fails_and_is_reported() -> None:
    from qvl_core.conformance.bad_kernels import faults

    wrong = next(fault.table for fault in faults(TABLE) if fault.kernel == "swiglu")
    result = run_suite(wrong, "float32", jit=False, kernels=["swiglu"])
    assert not result.passed
    report = render(result)
    assert "FAILED swiglu, tokens, gradient, contiguous: error" in report
    assert "DOES NOT CONFORM" in report
    assert json.loads(json.dumps(result.as_json()))["passed"] is False


def test_a_kernel_that_raises_is_a_failed_check_with_its_error() -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("no such kernel\nsecond line")

    case = next(case for case in all_cases() if case.kernel == "gelu")
    checks = check_case(case, replace(TABLE, gelu=broken), "float32", jit=False)
    assert not any(check.passed for check in checks)
    assert checks[0].message == "RuntimeError: no such kernel"


def test_nan_is_a_failed_check() -> None:
    case = next(case for case in all_cases() if case.kernel == "gelu")
    checks = check_case(case, replace(TABLE, gelu=lambda x: x * float("nan")), "float32", jit=False)
    assert checks[0].check == "values"
    assert checks[0].error == float("inf")
    assert not checks[0].passed


def test_an_empty_run_does_not_pass() -> None:
    result = run_suite(TABLE, "float32", jit=False, kernels=["no such kernel"])
    assert not result.passed


def test_tolerance_is_inclusive() -> None:
    check = Check(kernel="k", label="l", check="values", error=1e-6, tolerance=1e-6)
    assert check.passed
    assert not replace(check, error=1.1e-6).passed


class TestCommand:
    def test_writes_the_result(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = tmp_path / "result.json"
        assert main(["--only", "gelu", "--no-jit", "--json", str(file)]) == 0
        result = json.loads(file.read_text(encoding="utf-8"))
        assert result["passed"] is True
        assert result["device"] == "cpu"
        assert result["kernels"] == "reference"
        assert result["mindspore"]
        assert all(np.isfinite(check["error"]) for check in result["checks"])
        assert "conforms" in capsys.readouterr().out

    def test_refuses_an_unknown_kernel(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--only", "softmax", "--no-jit"]) == 2
        assert "unknown kernel softmax; there are linear, " in capsys.readouterr().err

    def test_refuses_the_ascend_forms_on_cpu(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--kernels", "ascend"]) == 3
        assert "need an Ascend device" in capsys.readouterr().err

    def test_refuses_a_file_that_cannot_be_written(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--only", "gelu", "--no-jit", "--json", str(tmp_path / "missing" / "x.json")]) == 2
        assert "cannot be written: No such file or directory" in capsys.readouterr().err
