"""Folders of runs that are whole, half-written, foreign, or of another version."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from qvl_core.errors import OutputError
from qvl_train.report.run_history import open_any_runs, open_runs, run_names
from run_folders import record, rows, validations, write_run


def test_reads_a_whole_run(tmp_path: Path) -> None:
    lines = [*rows(range(1, 301)), *validations([300])]
    write_run(tmp_path / "run", lines, content=record(result={"steps": 300}), memory=[0.9, 1.1])
    (run,) = open_runs([tmp_path / "run"])
    assert (run.name, run.last_step, run.memory_gib) == ("run", 300, (0.9, 1.1))
    assert run.facts.total_steps == 300
    assert run.facts.command == "qvl run recipe.toml"
    assert run.notices() == []


def test_a_foreign_folder_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    write_run(tmp_path / "runs" / "b", rows([1]), content=record())
    write_run(tmp_path / "runs" / "a", rows([1]), content=record())
    with pytest.raises(OutputError) as caught:
        open_runs([tmp_path / "nothing", tmp_path / "notes.txt", tmp_path, tmp_path / "runs"])
    messages = [problem.message for problem in caught.value.problems]
    assert messages == [
        "there is no such folder",
        "is a file, not the folder of a run",
        "is not the folder of a run: it has neither run.json nor metrics.jsonl",
        "is not the folder of a run: it has neither run.json nor metrics.jsonl",
    ]
    assert caught.value.problems[3].fix == f"{tmp_path}/runs/a\n{tmp_path}/runs/b"


@pytest.mark.parametrize("steps", [[*range(1, 31), 40], [*range(1, 31), 32, 42]])
def test_a_run_that_goes_on_with_rows_further_apart_has_no_hole(tmp_path: Path, steps: list[int]) -> None:
    write_run(tmp_path, rows(steps), content=record({"train.log.every": 10}))
    (run,) = open_runs([tmp_path])
    assert run.notices() == []
    write_run(tmp_path, rows(steps), content=record({"train.log.every": 1}))
    (holed,) = open_runs([tmp_path])
    assert len(holed.notices()) == 1


def test_a_file_of_the_run_leads_to_its_folder(tmp_path: Path) -> None:
    write_run(tmp_path, rows([1]), content=record())
    with pytest.raises(OutputError) as caught:
        open_runs([tmp_path / "run.json"])
    assert caught.value.problems[0].fix == str(tmp_path)


@pytest.mark.parametrize(
    ("content", "lines", "why"),
    [
        (None, [{"epoch": 1, "train_loss": 2.0}], "there is no run.json"),
        (None, [], "there is no run.json"),
        ({"name": "of another program", "status": "ok"}, None, "run.json has no recipe"),
        ('{"format": 1, "reci', [], "run.json has no recipe"),
    ],
)
def test_files_of_our_names_with_nothing_of_a_run_are_refused(
    tmp_path: Path, content: Any, lines: Any, why: str
) -> None:
    write_run(tmp_path, lines, content=content)
    with pytest.raises(OutputError) as caught:
        open_any_runs([tmp_path])
    (problem,) = caught.value.problems
    assert problem.message == f"is not the folder of a run: {why}, and metrics.jsonl has no row with a step"
    assert problem.fix == "give output.dir of the run's recipe"


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_path_that_no_system_has_is_a_problem_and_no_crash(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError):
        open_runs([tmp_path / name])


def test_an_evaluation_is_told_its_own_command(tmp_path: Path) -> None:
    write_run(tmp_path, content=record({"task": "eval"}))
    with pytest.raises(OutputError) as caught:
        open_runs([tmp_path])
    assert caught.value.problems[0].fix == f"qvl eval report {tmp_path}"
    assert open_any_runs([tmp_path])[0].facts.task == "eval"


@pytest.mark.parametrize(
    ("content", "notice"),
    [
        (None, "There is no run.json"),
        ('{"format": 1, "reci', "run.json cannot be used: not JSON"),
        ("[]", "run.json cannot be used: holds a JSON list"),
        ("", "run.json cannot be used: not JSON"),
        ({"format": 1}, "run.json has no recipe and no versions and no hashes."),
        ({**record(), "format": 2}, "run.json has format 2; this version knows 1"),
        ({"recipe": {}, "versions": {}, "hashes": {}}, "run.json has format None; this version knows 1"),
    ],
)
def test_a_record_that_is_missing_broken_or_of_another_version_costs_no_numbers(
    tmp_path: Path, content: Any, notice: str
) -> None:
    write_run(tmp_path, rows(range(1, 4)), content=content)
    (run,) = open_runs([tmp_path])
    assert run.last_step == 3
    assert notice in run.notices()[0]


def test_what_another_version_has_under_the_same_names_is_shown(tmp_path: Path) -> None:
    write_run(tmp_path, rows([1]), content={**record(), "format": 2, "history": "none", "command": 7, "result": 3})
    (run,) = open_runs([tmp_path])
    assert run.facts.recipe["task"] == "sft"
    assert (run.facts.history, run.facts.command, run.facts.result) == ((), "", None)


def test_a_run_that_has_only_begun_says_so(tmp_path: Path) -> None:
    write_run(tmp_path, content=record())
    (run,) = open_runs([tmp_path])
    assert run.notices() == ["No step is in metrics.jsonl yet."]


def test_a_run_that_was_ended_in_its_first_step_has_not_only_begun(tmp_path: Path) -> None:
    write_run(tmp_path, [{"step": 1, "not_finite": "the loss of step 1 is nan"}], content=record())
    (run,) = open_runs([tmp_path])
    assert run.last_step == 0
    assert run.notices() == ["The run was ended: the loss of step 1 is nan"]


def test_rows_without_a_loss_are_steps_and_said_so(tmp_path: Path) -> None:
    write_run(tmp_path, [{"step": 5, "validation_loss": 2.0}, {"step": 4, "save_s": 1.0}], content=record())
    (run,) = open_runs([tmp_path])
    assert run.last_step == 5
    assert run.notices() == ["No row of metrics.jsonl has a loss."]


def test_steps_whose_loss_is_not_finite_are_steps(tmp_path: Path) -> None:
    lines = [{**row, "loss": math.nan if row["step"] > 3 else row["loss"]} for row in rows(range(1, 9))]
    write_run(tmp_path, lines, content=record())
    (run,) = open_runs([tmp_path])
    assert run.last_step == 8
    assert run.notices() == ["loss: 5 values are NaN or infinite, first at step 4."]


def test_holes_lost_rows_and_failed_saves_are_told(tmp_path: Path) -> None:
    lines = [
        *rows([1, 2, 3, 7, 8]),
        {"step": 8, "metrics_rows_lost": 3},
        {"step": 8, "save_failed": "No space left on device"},
    ]
    write_run(tmp_path, lines, content=record())
    (run,) = open_runs([tmp_path])
    assert run.notices() == [
        "Without numbers: steps 4 to 6; lines are broken there.",
        "3 rows were lost while the disk was full.",
        "The checkpoint of step 8 was not written: No space left on device",
    ]


@pytest.mark.parametrize(
    ("steps", "every", "result", "notices"),
    [
        ([*range(51, 301)], 1, 300, ["Rows are missing: the first one is of step 51."]),
        ([5], 1, None, ["Rows are missing: the first one is of step 5."]),
        ([*range(1, 51)], 1, 300, ["Rows are missing: the run took 300 steps, the last row is of step 50."]),
        # What train.log.every leaves out is not missing, nor what is not known to have been taken.
        ([10, 20, 30, 35], 10, 35, []),
        ([10], 10, None, []),
        ([10, *range(11, 21)], 10, None, []),
        ([*range(1, 51)], 1, None, []),
    ],
)
def test_rows_that_are_missing_at_the_ends_are_told(
    tmp_path: Path, steps: list[int], every: int, result: int | None, notices: list[str]
) -> None:
    taken = None if result is None else {"steps": result}
    write_run(tmp_path, rows(steps), content=record({"train.log.every": every}, result=taken))
    assert open_runs([tmp_path])[0].notices() == notices


@pytest.mark.parametrize(
    ("steps", "continued", "is_told"),
    [
        # Every tenth step until the run was continued with every one; then from its last checkpoint on.
        ([10, *range(11, 31)], [10], False),
        ([10, *range(16, 31)], [15], False),
        ([10, 20, *range(26, 41)], [25, 33], False),
        ([10, *range(16, 31)], [], True),
        # Nothing of what there is before that could be of another number.
        ([*range(10, 31)], [15], True),
        ([51, *range(61, 81)], [40], True),
    ],
)
def test_a_run_that_began_with_rows_further_apart_misses_none_at_its_start(
    tmp_path: Path, steps: list[int], continued: list[int], is_told: bool
) -> None:
    history = [{"at": "2026-11-27T03:00:00Z", "after_step": step, "differences": []} for step in continued]
    write_run(tmp_path, rows(steps), content=record({"train.log.every": 1}, history=history))
    told = [notice for notice in open_runs([tmp_path])[0].notices() if "the first one is of step" in notice]
    assert bool(told) is is_told


@pytest.mark.parametrize(
    ("before", "now", "steps", "notice"),
    [
        # The first checkpoint came before the first row.
        (10, 1, range(8, 31), ""),
        (10, 1, range(12, 31), "Rows are missing: the first one is of step 12."),
        (1, 10, [*range(1, 15), 20, 30, 40], ""),
        (1, 10, [*range(5, 15), 20, 30, 40], "Rows are missing: the first one is of step 5."),
        ("many", 10, [10, 20, 30], ""),
    ],
)
def test_how_far_rows_were_apart_at_first_is_in_the_history(
    tmp_path: Path, before: object, now: int, steps: Sequence[int], notice: str
) -> None:
    entry = {"at": "2026-11-27T03:00:00Z", "after_step": 7, "settings": {"train.log.every": [before, now]}}
    write_run(tmp_path, rows(steps), content=record({"train.log.every": now}, history=[entry]))
    told = [one for one in open_runs([tmp_path])[0].notices() if "missing" in one or "Without" in one]
    assert told == ([notice] if notice else [])


def test_rows_without_a_loss_are_no_missing_rows(tmp_path: Path) -> None:
    lines = rows(range(1, 31))
    for row in lines[:4]:
        del row["loss"]
    write_run(tmp_path, lines, content=record({"train.log.every": 1}))
    assert not any("missing" in notice for notice in open_runs([tmp_path])[0].notices())
    write_run(tmp_path, [*validations([0]), *lines[6:]], content=record({"train.log.every": 1}))
    assert "Rows are missing: the first one is of step 7." in open_runs([tmp_path])[0].notices()


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", "[" * 100_000, "\udc80", "7" * 5000),
        *(
            f'{{"peak_memory_gib": {value}}}'
            for value in ("7", '["much"]', '"123"', '{"1": 2}', "[true]", "[null, 1.0]", "[-1]", "[1e999]", "[NaN]")
        ),
        f'{{"peak_memory_gib": [1.0, {"9" * 400}]}}',
        f'{{"peak_memory_gib": {"[" * 100_000}',
    ],
)
def test_a_broken_memory_file_is_as_none(tmp_path: Path, text: str) -> None:
    write_run(tmp_path, rows([1]), content=record())
    (tmp_path / "memory.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    (run,) = open_runs([tmp_path])
    assert run.memory_gib == ()
    assert [notice for notice in run.notices() if notice.startswith("memory.json cannot be used: ")]


def test_metrics_that_cannot_be_read_cost_no_record(tmp_path: Path) -> None:
    write_run(tmp_path, content=record())
    (tmp_path / "metrics.jsonl").mkdir()
    (run,) = open_runs([tmp_path])
    assert run.notices() == ["metrics.jsonl cannot be used: is a folder, not a regular file."]
    with pytest.raises(OutputError, match="not a regular file"):
        run.update()
    (tmp_path / "metrics.jsonl").rmdir()
    write_run(tmp_path, rows([1]))
    assert run.update()
    assert run.notices() == []


def test_a_folder_of_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, content="{")
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(OutputError, match="not a regular file"):
        open_runs([tmp_path])


def test_a_pipe_in_place_of_the_memory_file_makes_nobody_wait(tmp_path: Path) -> None:
    write_run(tmp_path, rows([1]), content=record())
    os.mkfifo(tmp_path / "memory.json")
    assert open_runs([tmp_path])[0].memory_gib == ()


def test_update_takes_what_is_new(tmp_path: Path) -> None:
    write_run(tmp_path, rows([1]), content=record())
    (run,) = open_runs([tmp_path])
    assert not run.update()
    write_run(tmp_path, rows([1, 2]), content=record(result={"steps": 2}))
    assert run.update()
    assert run.last_step == 2
    assert run.facts.result == {"steps": 2}


def test_the_command_can_be_given_to_a_shell_again(tmp_path: Path) -> None:
    command = ["qvl", "run", "my recipe.toml", "--set", "train.log.profile=[10, 12]", "--set", 'data.x="a$b"']
    write_run(tmp_path, content=record(command=command))
    assert shlex.split(open_runs([tmp_path])[0].facts.command) == command


def test_versions_are_those_that_the_run_was_last_continued_with(tmp_path: Path) -> None:
    history = [
        {"after_step": 4, "versions": {"mindspore": ["1.0", "2.0"]}},
        {"versions": {"mindspore": ["2.0", "3.0"]}},
    ]
    write_run(tmp_path, content=record(history=history))
    assert open_runs([tmp_path])[0].facts.known("versions")["mindspore"] == "3.0"


def test_names_tell_runs_apart() -> None:
    assert run_names([Path("/a/x/run"), Path("/a/y/run"), Path("/a/z")]) == ["x/run", "y/run", "z"]
    assert run_names([Path("/a/run"), Path("/a/run")]) == ["//a/run", "//a/run"]
