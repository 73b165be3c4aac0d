"""Signatures of the fused operations: the recorded ones are those of the installed MindSpore, and others are seen."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("mindspore", reason="kernels need mindspore")

import mindspore as ms
from mindspore import ops
from qvl_core.conformance import documented, signatures
from qvl_core.conformance.contract_cases import contract_cases
from qvl_core.conformance.contracts import check_contract
from qvl_core.kernels import select
from qvl_core.kernels.domain import DOMAINS

TABLE = select.ascend_table()
CASES = contract_cases()


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
