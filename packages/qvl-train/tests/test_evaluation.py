"""Evaluations during training: when they come, what is told of them, and that the training goes on as without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mindspore", reason="training runs the model")

from qvl_core import evaluators
from qvl_core.errors import NotInstalledError
from qvl_core.evaluators import EVALUATOR_GROUP, Measured, is_due, load_evaluator
from qvl_core.recipe import load_recipe
from whole_runs import losses, rows, train

EVAL = ("eval.benchmark=held_out", "eval.data=held.tsv", "eval.rules=exact", "eval.every=2")


class FakeEvaluator:
    """Keeps the steps that it is asked about."""

    def __init__(self, signal_at: int = 0) -> None:
        self.steps: list[int] = []
        self.checked = 0
        self.signal_at = signal_at

    def check(self) -> list[str]:
        self.checked += 1
        return ["held.tsv: is odd"]

    def measure(self, model: Any, world: Any, *, step: int, show: Any, asked_to_stop: Any) -> Measured:
        self.steps.append(step)
        show(1, 1)
        if step == self.signal_at:
            return Measured(signal_name="SIGTERM", is_complete=False)
        return Measured(numbers={"eval_accuracy_percent": 10.0 * step}, note=f"step {step}: good", answers="{}\n")


@pytest.fixture
def fake(project: Path, monkeypatch: pytest.MonkeyPatch) -> FakeEvaluator:
    (project / "held.tsv").write_text("index\n")
    evaluator = FakeEvaluator()
    monkeypatch.setattr(
        evaluators, "load_evaluator", lambda recipe: evaluator if recipe.eval and recipe.eval.every else None
    )
    return evaluator


def test_it_comes_every_so_many_steps_and_at_the_end(
    fake: FakeEvaluator, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(*EVAL, "train.steps=5") == 0
    assert fake.steps == [2, 4, 5]
    assert fake.checked == 1
    assert [(row["step"], row["eval_accuracy_percent"]) for row in rows() if "eval_accuracy_percent" in row] == [
        (2, 20.0),
        (4, 40.0),
        (5, 50.0),
    ]
    assert sorted(path.name for path in (project / "run" / "evaluations").iterdir()) == [
        f"step_{step:06d}.jsonl" for step in (2, 4, 5)
    ]
    output = capsys.readouterr().out
    assert "warning: held.tsv: is odd" in output
    assert "step 4: good" in output
    assert "evaluation" in output.split("where the time went")[1]


def test_the_numbers_go_to_tensorboard_too(fake: FakeEvaluator, project: Path) -> None:
    assert train(*EVAL, "train.log.tensorboard=true") == 0
    events = b"".join(path.read_bytes() for path in (project / "run" / "tensorboard").iterdir())
    assert b"eval_accuracy_percent" in events


def test_a_run_without_it_takes_the_same_steps(fake: FakeEvaluator) -> None:
    assert train(*EVAL, "train.steps=4") == 0
    assert train("train.steps=4", "output.dir=plain") == 0
    assert losses() == losses("plain")


def test_a_signal_during_an_evaluation_stops_the_run_which_is_saved(fake: FakeEvaluator, project: Path) -> None:
    fake.signal_at = 2
    assert train(*EVAL) == 0
    assert (project / "run" / "step_000002").is_dir()
    assert not [row for row in rows() if "eval_accuracy_percent" in row]
    fake.signal_at = 0
    assert train(*EVAL) == 0
    assert fake.steps == [2, 4, 6]


def test_a_missing_package_is_told_before_anything_is_written(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "held.tsv").write_text("index\n")
    find = evaluators.metadata.entry_points
    monkeypatch.setattr(
        evaluators.metadata, "entry_points", lambda **how: () if how["group"] == EVALUATOR_GROUP else find(**how)
    )
    with pytest.raises(NotInstalledError, match="qvl-eval does; it is not installed"):
        train(*EVAL)
    assert not (project / "run").exists()
    assert load_evaluator(load_recipe("recipe.toml")) is None
    assert load_evaluator(load_recipe("recipe.toml", [*EVAL[:3], "eval.every=0"])) is None


@pytest.mark.parametrize(("step", "expected"), [(0, False), (1, False), (2, True), (3, False), (5, True)])
def test_it_is_due_every_n_steps_and_after_the_last(project: Path, step: int, expected: bool) -> None:
    assert is_due(load_recipe("recipe.toml", EVAL), step, 5) is expected
    assert is_due(load_recipe("recipe.toml"), step, 5) is False
