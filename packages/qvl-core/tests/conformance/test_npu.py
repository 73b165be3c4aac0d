"""The program of `nox -s npu`, as far as a machine without NPUs can run it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from qvl_core.conformance import device_result, npu
from qvl_core.conformance.case_list import CONTRACT, TIMED, listed_cases
from qvl_core.conformance.npu import device_name, main
from qvl_core.conformance.trainings import read_losses, train
from qvl_core.errors import RecipeError

ROOT = Path(__file__).resolve().parents[4]


def test_it_is_refused_without_a_device(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path / "x.json")]) == 3
    error = capsys.readouterr().err
    assert "this program is for a machine with NPUs; this process runs on cpu" in error
    assert "--rehearse" in error
    assert list(tmp_path.iterdir()) == []


def test_a_rehearsal_writes_a_file_that_is_not_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mindspore", reason="the cases need mindspore")
    golden = device_result.read_golden()
    entry = {
        "recipe": "tiny_sft", "digest": "a", "device": "cpu", "overrides": {}, "exit_code": 0,
        "losses": golden["losses"],
    }  # fmt: skip
    monkeypatch.setattr(npu, "train", lambda path, folder, *, device: entry)
    # It went well, so 0; and it lies beside its runs, not where a device's file belongs.
    assert main(["--rehearse", "--no-jit", "--runs", str(tmp_path)]) == 0
    file = tmp_path / device_result.RESULT_FILE
    data = json.loads(file.read_text(encoding="utf-8"))
    assert {"contracts", "checks", "timings", "trainings", "digest", "program"} <= set(data)
    assert {x["kernel"] for x in data["contracts"]} == {kernel for kernel, _ in TIMED}
    assert [(x["kernel"], x["label"]) for x in data["timings"]] == list(TIMED)
    assert all(x["error"] <= x["tolerance"] and not x["message"] for x in data["contracts"])
    # The other form of attention, labelled: the contracts of its own calls, and values of the reference in its place.
    (form,) = data["other_forms"]
    assert (form["kernel"], form["form"]) == ("attention", "bsnd")
    labels = [x.label for x in listed_cases() if x.kernel == "attention" and x.label.startswith(CONTRACT)]
    assert [x["label"] for x in form["contracts"]] == labels
    assert all(x["relies_on"] == "" and not x["message"] for x in form["contracts"])
    assert {x["kernel"] for x in (*form["checks"], *form["timings"])} == {"attention"}
    result = device_result.read_device_result(file)
    assert any("made on cpu with the reference kernels" in problem for problem in result.problems)
    assert not any("changed after" in problem or "not a result file" in problem for problem in result.problems)
    said = capsys.readouterr().err
    assert "tiny_sft: not verified" in said
    assert "attention in the form bsnd: does not conform: " in said


class TestOtherFormThatEndsTheRun:
    """The file is whole when attention's other form begins, and stays so whatever becomes of that."""

    def run(
        self, error: BaseException, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> tuple[dict[str, Any], Callable[[], int]]:
        """Give what the file holds when the form begins (filled in by the run), and the run."""
        pytest.importorskip("mindspore", reason="the cases need mindspore")
        from qvl_core.conformance import other_form, timing

        built: list[tuple[timing.Task, ...]] = []
        tasks_of_7b = timing.tasks_of_7b
        early: dict[str, Any] = {}

        def build(**named: Any) -> tuple[timing.Task, ...]:
            built.append(tasks_of_7b(**named))
            return built[-1]

        def ends(*_: object, tasks: Sequence[timing.Task], **__: object) -> dict[str, Any]:
            early.update(json.loads((folder / device_result.RESULT_FILE).read_text(encoding="utf-8")))
            # The tensors of a 7B step are not made a second time.
            assert len(built) == 1
            assert list(tasks) == [task for task in built[0] if task.kernel == "attention"]
            raise error

        entry = {
            "recipe": "tiny_sft", "digest": "a", "device": "cpu", "overrides": {}, "exit_code": 0,
            "losses": device_result.read_golden()["losses"],
        }  # fmt: skip
        monkeypatch.setattr(npu, "train", lambda path, folder, *, device: entry)
        monkeypatch.setattr(timing, "tasks_of_7b", build)
        monkeypatch.setattr(other_form, "other_form", ends)
        return early, lambda: main(["--rehearse", "--no-jit", "--runs", str(folder)])

    def test_an_error_is_told_and_costs_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        early, run = self.run(RuntimeError("the device is lost"), tmp_path, monkeypatch)
        # A rehearsal that meets a fault has failed.
        assert run() == 1
        said = capsys.readouterr().err
        assert "attention in the form bsnd: does not conform: RuntimeError: the device is lost" in said
        assert said.count("tiny_sft: not verified") == 1
        file = tmp_path / device_result.RESULT_FILE
        late = json.loads(file.read_text(encoding="utf-8"))
        assert early.pop("digest") == device_result.content_digest(early)
        assert {k: v for k, v in late.items() if k not in ("digest", "other_forms")} == early
        assert late["trainings"][0]["recipe"] == "tiny_sft"
        assert len(late["timings"]) == len(TIMED)
        assert not any("changed after" in problem for problem in device_result.read_device_result(file).problems)

    def test_an_end_of_the_process_leaves_the_whole_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        early, run = self.run(SystemExit(134), tmp_path, monkeypatch)
        with pytest.raises(SystemExit):
            run()
        file = tmp_path / device_result.RESULT_FILE
        assert json.loads(file.read_text(encoding="utf-8")) == early
        assert {"checks", "contracts", "self_tests", "timings", "trainings", "digest"} <= set(early)
        result = device_result.read_device_result(file)
        assert result.other_forms == ()
        assert not any("changed after" in x or "not a result file" in x for x in result.problems)


@pytest.mark.parametrize(
    "fault",
    [
        {"signatures": ["ops.swiglu is gone"]},
        {"trainings": [{"exit_code": 1}]},
        {"checks": [{"message": "", "error": 1.0, "tolerance": 0.5}]},
        {"checks": [{"message": "", "error": None, "tolerance": 0.5}]},
        {"contracts": [{"message": "a broken rule", "error": None, "tolerance": 0.5}]},
        {"other_forms": [{"checks": [], "contracts": [], "timings": [], "message": "RuntimeError: lost"}]},
        {"timings": [{"message": "RuntimeError: refused"}]},
        {
            "other_forms": [
                {"checks": [{"message": "", "error": None, "tolerance": 0.5}], "contracts": [], "timings": []}
            ]
        },
        {"other_forms": [{"checks": [], "contracts": [], "timings": [{"message": "RuntimeError: refused"}]}]},
    ],
)
def test_a_rehearsal_that_meets_a_fault_has_failed(fault: dict[str, object]) -> None:
    fine = {"message": "", "error": 0.1, "tolerance": 0.5}
    data = {
        "signatures": [], "trainings": [{"exit_code": 0}], "checks": [fine], "contracts": [fine],
        "timings": [{"message": ""}],
    }  # fmt: skip
    assert not npu._broken(data)
    assert npu._broken({**data, **fault})


def test_a_device_that_refuses_one_call_costs_its_timing_and_is_told() -> None:
    pytest.importorskip("mindspore", reason="kernels need mindspore")
    from qvl_core.conformance.timing import measure, tasks_of_7b
    from qvl_core.kernels import select

    table = select.reference_table()

    def attention(q: Any, *rest: Any, **named: Any) -> Any:
        if q.shape[-1] == 80:
            raise RuntimeError("Call aclnnFlashAttentionVarLenScore failed, detail:EZ9999: Inner Error!\nmore lines")
        return table.attention(q, *rest, **named)

    told: list[str] = []
    tasks = tasks_of_7b(divide=64, dtype="float32")
    timings = measure(replace(table, attention=attention), table, tasks, rounds=1, tell=told.append)
    assert [(x.kernel, x.label) for x in timings] == [(x.kernel, x.label) for x in tasks] == list(TIMED)
    (refused,) = [x for x in timings if x.message]
    assert (refused.label, refused.fused_ms, refused.reference_ms) == ("windows, 16 heads of 80", None, None)
    said = "RuntimeError: Call aclnnFlashAttentionVarLenScore failed, detail:EZ9999: Inner Error!"
    assert refused.message == said
    assert told == [f"  no timing of attention, windows, 16 heads of 80: {said}"]


def test_renaming_the_device_of_a_rehearsal_is_not_enough(tmp_path: Path) -> None:
    data = {
        "format": 1, "made": "", "program": device_result.program_digest(), "device": "ascend", "device_name": "910B3",
        "npu_smi": "npu-smi 25.2.0 910B3", "cann": "", "mindspore": "2.10.0", "kernels": "ascend",
        "precision": "bfloat16", "signatures": [], "checks": [], "contracts": [], "self_tests": [], "timings": [],
        "trainings": [],
    }  # fmt: skip
    path = tmp_path / "x.json"
    path.write_text(json.dumps({**data, "digest": device_result.content_digest(data)}), encoding="utf-8")
    assert any("an incomplete run" in problem for problem in device_result.read_device_result(path).problems)


class TestTraining:
    @pytest.fixture(autouse=True)
    def root(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Paths in recipes are relative to where commands run: the project's root.
        if not (ROOT / "recipes" / "tiny_sft.toml").exists():
            pytest.skip("the recipes are in the repository, not in the package")
        monkeypatch.chdir(ROOT)

    def test_the_golden_recipe_runs_as_recorded_but_on_the_device(self, tmp_path: Path) -> None:
        commands: list[Sequence[str]] = []

        def run(command: Sequence[str]) -> int:
            commands.append(command)
            folder = tmp_path / "run"
            folder.mkdir()
            (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 6.5}\n{"step": 1, "validation_loss": 1}\n')
            return 0

        entry = train(Path("recipes/tiny_sft.toml"), tmp_path / "run", device="ascend", run=run)
        assert entry["losses"] == [6.5]
        assert (entry["recipe"], entry["device"], entry["exit_code"]) == ("tiny_sft", "ascend", 0)
        assert len(entry["digest"]) == 64
        assert set(entry["overrides"]) <= set(device_result.FREE_OVERRIDES)
        assert {"train.steps=40", "launch.device=ascend", "model.dtype=bfloat16"} <= set(commands[0])

    def test_another_recipe_runs_20_steps_as_it_is(self, tmp_path: Path) -> None:
        entry = train(Path("recipes/7b_sft.toml"), tmp_path / "run", device="ascend", run=lambda command: 1)
        assert entry["overrides"] == {"train.steps": 20, "output.dir": str(tmp_path / "run")}
        assert (entry["device"], entry["exit_code"], entry["losses"]) == ("ascend", 1, [])

    def test_a_run_that_failed_has_no_losses(self, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "metrics.jsonl").write_text('{"loss": 1.0}\n')
        entry = train(Path("recipes/tiny_sft.toml"), tmp_path / "run", device="ascend", run=lambda command: 0)
        # What an earlier run left is gone before this one starts.
        assert entry["losses"] == []

    def test_a_recipe_that_trains_nothing_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match='"infer" trains nothing'):
            train(Path("recipes/tiny_infer.toml"), tmp_path / "run", device="ascend", run=lambda command: 0)


def test_no_file_no_losses(tmp_path: Path) -> None:
    assert read_losses(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ("| npu-smi 24.1 |\n| NPU  Name | Health |\n| 0     910B3 | OK |", "910B3"),
        ("| 0  Ascend910_9392 | OK |", "Ascend910_9392"),
        ("| 0  950DT | OK |", "950DT"),
        ("| npu-smi 24.1 | 0  310P3 | OK |", "no NPU"),
        ("", "no NPU"),
    ],
)
def test_name_of_the_device(table: str, name: str) -> None:
    assert device_name(table) == name
