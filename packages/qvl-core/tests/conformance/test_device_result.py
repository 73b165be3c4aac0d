"""The result file of a device: a whole one raises recipes; one with a part missing, changed or made up does not."""

from __future__ import annotations

import copy
import importlib.util
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qvl_core.conformance import device_result
from qvl_core.conformance.case_list import CONTRACT, TIMED, listed_cases
from qvl_core.conformance.device_result import DeviceResult, judge, read_device_result

_SPEC = importlib.util.spec_from_file_location("device_file", Path(__file__).with_name("device_file.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
device_file = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(device_file)

DIGESTS = {"tiny_sft": "a" * 64, "7b_sft": "b" * 64}
Change = Callable[[dict[str, Any]], None]


def judged(change: Change = lambda data: None) -> DeviceResult:
    """Judge a good file after a change; the digest is made anew, as a forger would."""
    data = copy.deepcopy(device_file.good(DIGESTS))
    change(data)
    return judge(device_file.sealed(data))


def put(*path: Any, value: Any) -> Change:
    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return change


def without(kernel: str, name: str, section: str = "checks") -> Change:
    def change(data: dict[str, Any]) -> None:
        data[section] = [x for x in data[section] if (x["kernel"], x.get("check", name)) != (kernel, name)]

    return change


def training(**changes: Any) -> Change:
    return lambda data: data["trainings"][1].update(changes)


def golden(**changes: Any) -> Change:
    return lambda data: data["trainings"][0].update(changes)


def one_label(kernel: str) -> Change:
    """Leave the checks of the kernel's first case only, as often as there were more."""

    def change(data: dict[str, Any]) -> None:
        first = next(x["label"] for x in data["checks"] if x["kernel"] == kernel)
        data["checks"] = [{**x, "label": first} if x["kernel"] == kernel else x for x in data["checks"]]

    return change


def test_a_whole_file_raises_its_recipes() -> None:
    result = judged()
    assert result.problems == ()
    assert result.where == "910B3, MindSpore 2.7.0, CANN 8.2.RC1, 2026-11-27T00:00:00Z"
    assert result.verifies("7b_sft", "b" * 64)
    assert result.verifies("tiny_sft", "a" * 64)


def test_it_raises_no_recipe_that_was_changed_since_or_did_not_run() -> None:
    assert not judged().verifies("7b_sft", "c" * 64)
    assert not judged().verifies("72b_sft", "b" * 64)


class TestOtherForms:
    def test_one_that_conforms_is_told(self) -> None:
        (told,) = judged().other_forms
        assert re.fullmatch(r"attention in the form bsnd: conforms, \d+ checks and 19 contracts", told)

    def test_a_file_without_them_stays_readable(self) -> None:
        result = judged(lambda data: data.pop("other_forms"))
        assert (result.problems, result.other_forms) == ((), ())
        assert result.verifies("7b_sft", "b" * 64)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (put("other_forms", 0, "contracts", value=[]), "an incomplete run: 19 contracts of attention missing"),
            (put("other_forms", 0, "checks", value=[]), "an incomplete run: "),
            (put("other_forms", 0, "checks", 0, "error", value=0.05), "failed: attention, "),
            (put("other_forms", 0, "checks", 0, "error", value=None), "error None"),
            (put("other_forms", 0, "checks", 0, "message", value="RuntimeError: refused"), "RuntimeError: refused"),
            (put("other_forms", 0, "message", value="RuntimeError: lost"), "does not conform: RuntimeError: lost"),
            (put("other_forms", 0, "contracts", 1, "message", value="BrokenRuleError: x"), "BrokenRuleError: x"),
        ],
    )
    def test_one_that_does_not_is_told_and_costs_no_recipe(self, change: Change, said: str) -> None:
        result = judged(change)
        (told,) = result.other_forms
        assert told.startswith("attention in the form bsnd: does not conform: ")
        assert said in told
        # It runs only where it is asked for: what the usual form proves stays proven.
        assert result.verifies("7b_sft", "b" * 64)

    @pytest.mark.parametrize("part", [[1], ["x"], [{}], [{"kernel": "attention", "form": "bsnd"}], 7])
    def test_another_structure_is_no_result_file(self, tmp_path: Path, part: Any) -> None:
        path = device_file.write(
            tmp_path / "x.json", device_file.sealed({**device_file.good(DIGESTS), "other_forms": part})
        )
        assert any("not a result file" in problem for problem in read_device_result(path).problems)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("device", value="cpu"), "made on cpu with the ascend kernels"),
        (put("kernels", value="reference"), "with the reference kernels"),
        (put("npu_smi", value=""), "no output of npu-smi"),
        (put("npu_smi", value="npu-smi 25.2.0\nno device"), "no output of npu-smi"),
        (put("program", value="0" * 64), "other kernels or another suite"),
        (put("signatures", value=["mindspore.ops.swiglu is not in this MindSpore"]), "other signatures"),
        (put("precision", value="float32"), "attention has no fused form"),
        (put("format", value=2), "format 2; this version reads 1"),
        (put("self_tests", value=[]), "did not notice all kernels that are wrong"),
        (put("self_tests", 0, "caught_by", value=[]), "did not notice all kernels that are wrong"),
        (put("timings", value=[]), "no timing of attention"),
        (put("timings", 0, "fused_ms", value=0), "no timing of attention"),
        (put("timings", 0, "fused_ms", value=True), "no timing of attention"),
        (put("contracts", value=[]), "an incomplete run: 19 contracts of attention missing"),
        (lambda data: data["contracts"].pop(), "1 contract of adamw_update missing, the first contract: an epsilon"),
        (put("contracts", 0, "message", value="BrokenRuleError: x"), "BrokenRuleError: x"),
        (put("checks", 0, "error", value=0.05), "failed: linear, one row, values: error 0.05"),
        (put("checks", 0, "error", value=None), "failed: linear"),
        (put("checks", 0, "error", value=math.nan), "failed: linear"),
        (put("checks", 0, "error", value="0"), "failed: linear"),
        (put("checks", 0, "error", value=-1), "failed: linear, one row, values: error -1"),
        (without("attention", "values"), "an incomplete run: 41 checks of attention missing"),
        (without("swiglu", "jit gradient"), "checks of swiglu missing, the first one token, jit gradient"),
        (one_label("rope"), "checks of rope missing, the first tokens, values"),
        (golden(device="cpu"), "the training of tiny_sft ran on cpu"),
        (golden(exit_code=1), "the training of tiny_sft ended with exit code 1"),
        (golden(overrides={}), "has model.dtype = None, not 'bfloat16'"),
        (
            put("trainings", 0, "overrides", "model.dtype", value="float32"),
            "has model.dtype = 'float32', not 'bfloat16'",
        ),
        (put("trainings", 0, "overrides", "train.lr", value=1.0), "has train.lr = 1.0, not None"),
        (golden(losses=device_result.read_golden()["losses"]), "the golden ones to the last digits"),
        (without("rope", "", "timings"), "no timing of rope"),
        (put("trainings", value=[]), "no training of tiny_sft"),
        (put("trainings", 0, "losses", 3, value=40.0), "differ from the golden ones by"),
        (put("trainings", 0, "losses", value=[1.0] * 40), "differ from the golden ones by"),
        (put("trainings", 0, "losses", 3, value=math.nan), "differ from the golden ones by"),
        (put("trainings", 0, "losses", value=[6.4]), "1 steps of tiny_sft, not 40"),
    ],
)
def test_what_is_not_taken(change: Change, said: str) -> None:
    result = judged(change)
    assert any(said in problem for problem in result.problems), result.problems
    assert not result.verifies("7b_sft", "b" * 64)
    assert not result.verifies("tiny_sft", "a" * 64)


@pytest.mark.parametrize("place", range(len(TIMED)))
def test_a_timing_of_every_kernel_and_label_is_needed(place: int) -> None:
    name = ", ".join(TIMED[place])
    assert judged(lambda data: data["timings"].pop(place)).problems == (f"no timing of {name}",)
    refused = {
        "fused_ms": None,
        "reference_ms": None,
        "spread": None,
        "message": "RuntimeError: Call aclnn\x1bX failed",
    }
    result = judged(lambda data: data["timings"][place].update(refused))
    assert result.problems == (f"no timing of {name}: RuntimeError: Call aclnn\\x1bX failed",)
    assert not result.verifies("7b_sft", "b" * 64)
    # A message counts beside numbers too, and numbers that are none without a message.
    assert len(judged(put("timings", place, "message", value="RuntimeError: x")).problems) == 1
    assert len(judged(put("timings", place, "reference_ms", value=None)).problems) == 1


@pytest.mark.parametrize("error", [0.04, 1e-9, 0.0])
def test_an_error_inside_of_the_tolerance_is_taken(error: float) -> None:
    assert judged(put("checks", 0, "error", value=error)).problems == ()


def test_a_stated_tolerance_or_verdict_does_not_count() -> None:
    def change(data: dict[str, Any]) -> None:
        data["checks"][0] |= {"error": 0.5, "tolerance": 9.0, "passed": True}
        data["passed"] = True

    assert judged(change).problems == ("failed: linear, one row, values: error 0.5",)


@pytest.mark.parametrize(
    "change",
    [
        training(device="cpu"),
        training(exit_code=1),
        training(overrides={"train.steps": 40, "model.dtype": "float32"}),
        training(overrides={"train.steps": 40, "launch.device": "cpu"}),
        training(overrides={"train.steps": 20, "layout.tp": 8}),
        training(overrides={"model.layers": 2}),
        training(losses=[3.0 - i / 10 for i in range(19)]),
        training(losses=[2.0] * 40),
        training(losses=[2.0 + i / 10 for i in range(40)]),
        training(losses=[3.0, math.inf, *[1.0] * 38]),
        training(losses=[]),
    ],
)
def test_a_training_that_verifies_nothing(change: Change) -> None:
    result = judged(change)
    assert not result.verifies("7b_sft", "b" * 64)
    assert result.verifies("tiny_sft", "a" * 64)


def test_20_falling_steps_are_enough() -> None:
    assert judged(training(losses=[3.0 - i / 10 for i in range(20)])).verifies("7b_sft", "b" * 64)


class TestFile:
    def test_an_edit_after_writing_is_seen(self, tmp_path: Path) -> None:
        data = device_file.sealed(device_file.good(DIGESTS))
        assert read_device_result(device_file.write(tmp_path / "x.json", data)).problems == ()
        data["device_name"] = "910C"
        (problem,) = read_device_result(device_file.write(tmp_path / "x.json", data)).problems
        assert "was changed after it was written" in problem

    @pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 1}', '{"format": 1, "trainings": 3}', "null"])
    def test_anything_else_is_not_taken(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "x.json"
        path.write_text(text, encoding="utf-8")
        assert read_device_result(path).problems

    @pytest.mark.parametrize(
        "path", [("checks", 0, "error"), ("trainings", 0, "losses", 0), ("timings", 0, "fused_ms")]
    )
    def test_a_number_too_large_for_a_float(self, tmp_path: Path, path: tuple[Any, ...]) -> None:
        data = device_file.good(DIGESTS)
        put(*path, value=10**400)(data)
        (problem,) = read_device_result(device_file.write(tmp_path / "x.json", device_file.sealed(data))).problems
        assert "OverflowError" in problem

    def test_a_folder_is_not_taken(self, tmp_path: Path) -> None:
        assert read_device_result(tmp_path).problems

    @pytest.mark.parametrize("key", sorted({*device_file.good(DIGESTS)} - {"numpy"}))
    def test_a_key_that_is_missing_or_of_another_type(self, tmp_path: Path, key: str) -> None:
        data = device_file.good(DIGESTS)
        for broken in ({k: v for k, v in data.items() if k != key}, {**data, key: 7}, {**data, key: [7]}):
            result = read_device_result(device_file.write(tmp_path / "x.json", device_file.sealed(broken)))
            # Free text about the machine may be anything; what decides may not.
            is_free = key in ("made", "device_name", "cann", "mindspore") and key in broken
            # Files of before there were other forms of a kernel have none.
            assert result.problems or is_free or (key == "other_forms" and key not in broken)


def test_golden_losses_are_40_that_fall() -> None:
    losses = device_result.read_golden()["losses"]
    assert len(losses) == 40
    assert losses[0] == pytest.approx(6.4194, abs=1e-3)
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_the_program_digest_is_that_of_the_sources() -> None:
    assert device_result.program_digest() == device_result.program_digest()
    assert len(device_result.program_digest()) == 64


def test_the_lists_are_those_of_the_kernels() -> None:
    pytest.importorskip("mindspore", reason="the lists are held against the kernel table")
    from qvl_core.conformance.cases import all_cases
    from qvl_core.conformance.checks import check_again, check_case
    from qvl_core.conformance.contract_cases import contract_cases
    from qvl_core.kernels import select
    from qvl_core.kernels.domain import DOMAINS

    table = select.reference_table()
    assert {kernel for kernel, _ in TIMED} == set(DOMAINS)
    listed = listed_cases()
    assert {case.kernel for case in listed} == {name for name in vars(table) if name != "name"}
    known = [(x.kernel, x.label, x.gradients, x.jit) for x in (*all_cases(), *contract_cases())]
    assert [(x.kernel, x.label, x.gradients, x.jit) for x in listed] == known
    assert len(set(known)) == len(known)
    assert [x.label for x in listed if x.label.startswith(CONTRACT)] == [x.label for x in contract_cases()]
    # The names that the reader looks for are those that the suite writes.
    for kernel in ("gelu", "split_qkv", "adamw_update"):
        case = next(x for x in all_cases() if x.kernel == kernel)
        row = next(x for x in listed if x.kernel == kernel)
        checks = (*check_case(case, table, "float32", jit=True), *check_again(case, table, "float32"))
        assert set(row.checks()) == {x.check for x in checks if "gradient, " not in x.check or "contiguous" in x.check}
