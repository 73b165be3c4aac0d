"""An evaluation from recipe to scores with a stand-in for the model: what is written, done once, refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import qvl_eval.evaluation.evaluate as module
from qvl_core.durable import TEMPORARY_MARK
from qvl_core.errors import DataError, OutputError, RecipeError, WeightsError
from qvl_core.recipe import load_recipe
from qvl_core.tasks import RunOptions
from qvl_eval.answers.job import Piece
from qvl_eval.benchmarks.asking import PreparedRow
from qvl_eval.benchmarks.tsv import Row
from qvl_eval.evaluation import replica
from qvl_eval.evaluation.evaluate import evaluate
from qvl_eval.evaluation.preflight import PreflightError
from qvl_eval.evaluation.work_plan import PLAN_NAME
from qvl_eval.task import run
from rich.console import Console

WriteRecipe = Callable[..., Path]
Run = Callable[..., tuple[int, str]]


class FakeModel:
    """A driver that answers every row with the same text in one step, and keeps the rows of each step.

    `fail_at` raises at that step.
    """

    def __init__(self, text: str = "1", fail_at: int = 0) -> None:
        self.text, self.fail_at = text, fail_at
        self.batches: list[int] = []
        self.held: list[str] = []
        self.asked: list[str] = []

    def submit(self, job: FakeJob) -> None:
        self.held.append(job.job_id)
        self.asked.append(job.job_id)

    def step(self) -> list[Piece]:
        self.batches.append(len(self.held))
        if len(self.batches) == self.fail_at:
            raise KeyboardInterrupt
        held, self.held = self.held, []
        return [Piece(job_id=one, text=self.text, new_tokens=2, finish="stop") for one in held]


@dataclass(frozen=True)
class FakeJob:
    job_id: str
    prompt: Any = field(default_factory=lambda: SimpleNamespace(patches=np.zeros(4)))
    prompt_tokens: int = 7


def fake_prepare(row: Row, parts: Any, key: str, *rest: Any, **options: Any) -> PreparedRow:
    return PreparedRow(row=row, key=key, job=FakeJob(row.index), sizes=((28, 28),))  # type: ignore[arg-type]


LOADED = SimpleNamespace(
    processor=SimpleNamespace(spec=SimpleNamespace(text=SimpleNamespace(max_position_embeddings=64))), options=None
)


@pytest.fixture
def start(write_recipe: WriteRecipe, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the evaluation with a fake model; give exit code and output."""

    def start(model: FakeModel, *settings: str, resume: str = "auto", accept_changes: bool = False) -> tuple[int, str]:
        monkeypatch.setattr(module, "load_replica", lambda *_, **__: (LOADED, model))
        monkeypatch.setattr(replica, "prepare_row", fake_prepare)
        text = io.StringIO()
        recipe = load_recipe(write_recipe(), settings)
        options = RunOptions(resume=resume, accept_changes=accept_changes)
        code = evaluate(recipe, options, Console(file=text, width=100))
        return code, text.getvalue()

    return start


def test_writes_answers_scores_and_the_record_and_shows_accuracy_against_chance(start: Run, tmp_path: Path) -> None:
    model = FakeModel("1")
    code, text = start(model)
    assert code == 0
    assert model.batches == [2, 2, 1]
    assert "accuracy 20.0 % (1 of 5 questions); chance is 10.0 %" in text
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    overall = scores["overall"]
    assert (overall["rows"], overall["right"], overall["accuracy_percent"]) == (5, 1.0, 20.0)
    result = json.loads((tmp_path / "run" / "run.json").read_text())["result"]
    assert (result["rows"], result["accuracy_percent"], result["chance_percent"]) == (5, 20.0, 10.0)
    assert result["protocol"]["prompts"] == "custom"
    assert result["protocol"]["image"] == {"min_pixels": 12544, "max_pixels": 12544}
    lines = (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == ["r0", "r1", "r2", "r3", "r4"]
    first = json.loads(lines[0])
    assert (first["prompt_tokens"], first["new_tokens"], first["sizes"]) == (7, 2, [[28, 28]])
    assert "seconds" not in first
    times = [json.loads(line) for line in (tmp_path / "run" / "times.jsonl").read_text().splitlines()]
    assert [row["index"] for row in times] == ["r0", "r1", "r2", "r3", "r4"]
    assert not (tmp_path / "run" / "work.json").exists()


def test_ones_own_questions_are_called_so_in_every_file(start: Run, tmp_path: Path) -> None:
    assert start(FakeModel("1"), "eval.benchmark=held_out")[0] == 0
    (table,) = (tmp_path / "run").glob("*_held_out_acc.csv")
    assert {line.split(",")[0] for line in table.read_text().splitlines()[1:]} == {"held_out"}
    sets = json.loads((tmp_path / "run" / "scores.json").read_text())["rule_sets"]
    assert sets["exact"]["benchmark"] == "held_out"


def test_an_interrupted_run_continues_and_ends_with_the_same_files(start: Run, tmp_path: Path) -> None:
    start(FakeModel("1"))
    names = [path.name for path in (tmp_path / "run").iterdir() if path.name not in ("run.json", "times.jsonl")]
    assert {"checkpoint_digits_test.xlsx", "checkpoint_digits_test_acc.csv", "report.html"} <= set(names)
    whole = {name: (tmp_path / "run" / name).read_bytes() for name in names if name[0] != "."}
    for path in (tmp_path / "run").iterdir():
        path.unlink()
    with pytest.raises(KeyboardInterrupt):
        start(FakeModel("1", fail_at=2))
    rest = FakeModel("1")
    start(rest)
    assert rest.batches == [2, 1]
    assert {name: (tmp_path / "run" / name).read_bytes() for name in whole} == whole


def test_a_finished_run_is_shown_and_not_run_again(start: Run) -> None:
    start(FakeModel("1"))
    again = FakeModel("2")
    code, text = start(again)
    assert (code, again.batches) == (0, [])
    assert "finished before" in text
    assert "accuracy 20.0 %" in text


def test_a_kill_before_the_result_is_written_leaves_no_plan_behind(
    start: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(FakeModel("1", fail_at=2))
    plan = tmp_path / "run" / PLAN_NAME
    plan.write_text("{}")
    monkeypatch.setattr(module, "result_of", killed)
    with pytest.raises(KeyboardInterrupt):
        start(FakeModel("1"))
    assert not plan.exists()


def test_a_finished_run_that_is_shown_again_loses_what_a_kill_has_left(start: Run, tmp_path: Path) -> None:
    start(FakeModel("1"))
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    for name in (PLAN_NAME, f"scores.json{TEMPORARY_MARK}1"):
        (tmp_path / "run" / name).write_text("{}")
    start(FakeModel("1"))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


def test_the_first_answers_stop_a_broken_set_up_and_stay_answered(
    start: Run, save_benchmark: Callable[[Sequence[Sequence[str]]], None], picture: str, tmp_path: Path
) -> None:
    save_benchmark([(f"r{n}", picture, "Which?", str(n % 10), "") for n in range(40)])
    settings = ("eval.preflight.rows=10", "eval.batch=4")
    for model in (FakeModel(""), FakeModel("")):
        with pytest.raises(PreflightError, match="all 10 answers are empty"):
            start(model, *settings)
        assert len((tmp_path / "run" / "predictions.jsonl").read_text().splitlines()) == 10
    assert model.batches == [], "the second run sees what the first has found"
    assert not (tmp_path / "run" / "scores.json").exists()
    _, text = start(FakeModel(""), *settings, "eval.preflight.on_failure=continue")
    assert "going on all the same" in text
    assert "40 answers were empty" in text


def test_the_first_answers_of_a_sound_set_up_are_spread_over_the_file_and_not_asked_again(
    start: Run, save_benchmark: Callable[[Sequence[Sequence[str]]], None], picture: str
) -> None:
    save_benchmark([(f"r{n}", picture, "Which?", str(n % 10), "") for n in range(40)])
    model = FakeModel("1")
    start(model, "eval.preflight.rows=10", "eval.batch=5")
    assert model.asked[:10] == [f"r{n}" for n in range(0, 40, 4)]
    assert sorted(model.asked) == sorted(f"r{n}" for n in range(40))


def test_other_answers_are_given_anew_where_changes_are_accepted(start: Run, tmp_path: Path) -> None:
    start(FakeModel("1"), "eval.limit=2")
    again = FakeModel("2")
    start(again, "generation.max_new_tokens=7", accept_changes=True)
    assert sorted(again.asked) == ["r0", "r1", "r2", "r3", "r4"]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert any("protocol" in line for line in record["history"][0]["differences"])


def test_other_rules_score_the_same_answers_again(start: Run) -> None:
    start(FakeModel("1"))
    again = FakeModel("2")
    _, text = start(again, 'eval.rules=["exact"]', "eval.preflight.rows=2")
    assert again.asked == []
    assert "accuracy 20.0 %" in text


def test_a_limit_can_be_raised_later(start: Run) -> None:
    _, text = start(FakeModel("1"), "eval.limit=2")
    assert "(1 of 2 questions)" in text
    more = FakeModel("1")
    _, text = start(more, "eval.limit=4")
    assert more.batches == [2]
    assert "(1 of 4 questions)" in text


def test_the_record_has_the_recipe_and_the_versions_of_the_last_run(
    start: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where only scores were made again: recipe and result in it are of one run."""
    start(FakeModel("1"), "eval.limit=2")
    monkeypatch.setattr("qvl_core.run_folder.installed_versions", lambda: {"mindspore": "0.0.1"})
    for limit, entries in (("3", 1), ("2", 1)):
        start(FakeModel("1"), f"eval.limit={limit}")
        record = json.loads((tmp_path / "run" / "run.json").read_text())
        assert record["recipe"]["eval"]["limit"] == record["result"]["protocol"]["limit"] == int(limit)
        assert [entry["versions"]["mindspore"][1] for entry in record["history"]] == ["0.0.1"] * entries


def test_answers_beyond_a_lowered_limit_are_not_counted_as_progress(start: Run, tmp_path: Path) -> None:
    start(FakeModel("1"))
    log = tmp_path / "run" / "predictions.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:1] + lines[3:]))
    code, text = start(FakeModel("1"), "eval.limit=3")
    assert code == 0
    assert "1 of 3 rows were answered before" in text
    assert [line for line in text.splitlines() if line.startswith("answered ")] == ["answered 3/3 rows"]


def test_another_batch_size_continues_the_same_run(start: Run) -> None:
    start(FakeModel("1"), "eval.limit=1")
    rest = FakeModel("1")
    start(rest, "eval.batch=4")
    assert rest.batches == [4]


@pytest.mark.parametrize("setting", ["generation.max_new_tokens=7", "data.image.max_pixels=200704"])
def test_refuses_to_continue_with_other_settings(start: Run, setting: str) -> None:
    start(FakeModel("1"), "eval.limit=2")
    with pytest.raises(OutputError, match="belongs to another run"):
        start(FakeModel("1"), setting)


def test_refuses_to_continue_with_other_weights(start: Run, save_weights: Callable[[int], None]) -> None:
    start(FakeModel("1"), "eval.limit=2")
    save_weights(2)
    with pytest.raises(OutputError, match="weights hash"):
        start(FakeModel("1"))


def test_resume_never_refuses_a_folder_with_a_run_and_takes_an_empty_one(start: Run) -> None:
    assert start(FakeModel("1"), resume="never")[0] == 0
    with pytest.raises(OutputError, match="--resume never"):
        start(FakeModel("1"), resume="never")


def test_resume_from_a_checkpoint_is_refused(start: Run) -> None:
    with pytest.raises(OutputError, match="no checkpoint"):
        start(FakeModel("1"), resume="runs/somewhere/step_000100")


def test_refuses_a_folder_of_somebody_else(start: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        start(FakeModel("1"))


def test_a_broken_picture_is_named_with_its_row_before_the_model_is_loaded(
    start: Run, save_benchmark: Callable[[Sequence[Sequence[str]]], None], picture: str, tmp_path: Path
) -> None:
    rows = [("good", picture), ("bad", "QUJD" * 30), ("same", "good")]
    save_benchmark([(index, cell, "Which?", "1", "") for index, cell in rows])
    with pytest.raises(DataError, match="row bad, image") as caught:
        start(FakeModel("1"))
    assert caught.value.problems[0].where.endswith("digits.tsv:3")
    assert not (tmp_path / "run").exists()


def test_missing_weights_say_how_to_get_them(start: Run, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="none does not exist") as caught:
        start(FakeModel("1"), f"weights.source={tmp_path}/none")
    assert "qvl run recipes/tiny_sft.toml" in caught.value.problems[0].fix
    assert not (tmp_path / "run").exists()


def test_a_truncated_weights_file_is_refused_before_anything_is_written(
    start: Run, weights: Path, tmp_path: Path
) -> None:
    file = weights / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        start(FakeModel("1"))
    assert not (tmp_path / "run").exists()


def test_another_tokenizer_makes_another_run(start: Run, weights: Path) -> None:
    start(FakeModel("1"), "eval.limit=2")
    template = weights / "chat_template.jinja"
    template.write_text(template.read_text().replace("helpful", "terse"))
    with pytest.raises(OutputError, match="weights hash"):
        start(FakeModel("1"))


def test_missing_data_is_refused_before_anything_is_written(start: Run, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        start(FakeModel("1"), f"eval.data={tmp_path}/none.tsv")
    assert not (tmp_path / "run").exists()


def test_an_infer_recipe_is_not_run_but_says_what_to_type(write_recipe: WriteRecipe) -> None:
    recipe = load_recipe(write_recipe("infer"))
    with pytest.raises(RecipeError, match="holds no question") as caught:
        run(recipe, RunOptions())
    assert caught.value.problems[0].fix.startswith("qvl infer ")


def test_an_eval_recipe_is_run_by_the_task(write_recipe: WriteRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load_replica", lambda *_, **__: (LOADED, FakeModel("1")))
    monkeypatch.setattr(replica, "prepare_row", fake_prepare)
    assert run(load_recipe(write_recipe()), RunOptions()) == 0
