"""What `qvl run` does around the workers of a run in several processes: without MindSpore, once on each machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

pytest.importorskip("mindspore", reason="training needs MindSpore")

from qvl_core.errors import OutputError
from qvl_core.layout import Layout
from qvl_core.recipe import load_recipe
from qvl_core.run_folder import RunRecord, read_record
from qvl_core.tasks import RunOptions
from qvl_train import task, worker
from thread_worlds import run_ranks

FOUR = ("layout.tp=2", "layout.pp=2")

WITHOUT_MINDSPORE = """\
import shutil, sys
sys.modules["mindspore"] = None
from qvl_core.recipe import load_recipe
from qvl_core.tasks import RunOptions
from qvl_train.task import run

def start_workers():
    print("workers")
    shutil.copy("single/metrics.jsonl", "four")
    shutil.copytree("single/step_000002", "four/step_000002")

settings = ("train.steps=2", "output.dir=four", "layout.tp=2", "layout.pp=2")
for _ in range(2):
    assert run(load_recipe("recipe.toml", settings), RunOptions(node_rank=0, start_workers=start_workers)) == 0
"""


def test_the_launcher_checks_and_exports_without_mindspore_and_starts_the_workers_once(project: Path) -> None:
    assert task.run(load_recipe("recipe.toml", ("train.steps=2", "output.dir=single")), RunOptions()) == 0
    done = subprocess.run([sys.executable, "-c", WITHOUT_MINDSPORE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("workers\n") == 1
    assert "holds this run, finished" in done.stdout
    for path in (project / "single" / "hf").iterdir():
        assert (project / "four" / "hf" / path.name).read_bytes() == path.read_bytes()
    record = read_record(project / "four")
    assert record is not None
    assert record.result is not None
    assert record.result["steps"] == 2


def test_workers_that_stopped_early_leave_an_unfinished_run(project: Path) -> None:
    def start_workers() -> str:
        assert read_record(project / "run") is not None
        return "SIGTERM"

    options = RunOptions(node_rank=0, start_workers=start_workers)
    assert task.run(load_recipe("recipe.toml", FOUR), options) == 0
    record = read_record(project / "run")
    assert record is not None
    assert record.result is None
    assert not (project / "run" / "hf").exists()


def test_the_error_of_the_workers_is_the_error_of_the_run(project: Path) -> None:
    def start_workers() -> None:
        raise OutputError([])

    with pytest.raises(OutputError):
        task.run(load_recipe("recipe.toml", FOUR), RunOptions(node_rank=0, start_workers=start_workers))


def test_other_machines_start_workers_and_leave_the_folder_to_the_first(project: Path) -> None:
    started = []

    def start_workers() -> None:
        started.append([path.name for path in project.glob("run/*")])

    settings = (*FOUR, "layout.dp=2")
    assert task.run(load_recipe("recipe.toml", settings), RunOptions(node_rank=1, start_workers=start_workers)) == 0
    assert started == [[]]
    assert not (project / "run").exists()


def test_machines_with_other_data_are_refused_with_both_hashes(project: Path) -> None:
    recipe = load_recipe("recipe.toml", ())
    (project / "run").mkdir()
    RunRecord.start(recipe.resolved(), {"data": "a" * 64, "weights": "w"}).write(project / "run")

    def work(world: Any) -> Any:
        return worker._agree(recipe, cast(Any, SimpleNamespace(data_hash=("b" if world.rank else "a") * 64)), world)

    for error in run_ranks(Layout(vision_stages=(1,), text_stages=(1,), dp=2), work):
        assert isinstance(error, OutputError)
        assert "rank 0 reads aaaaaaaaaaaa, rank 1 reads bbbbbbbbbbbb" in str(error)
