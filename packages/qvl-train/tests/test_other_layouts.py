"""Runs of several ranks in threads: saved in the background, cut over replicas or not, and continued in other layouts.

MindSpore's threads get along as long as no gradient is computed through a collective, as tp does: tp is in the tests
that start processes. fp32 sums are added in another order in another layout: losses within 1e-5 (relative), the limit
of the layout tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mindspore", reason="training needs MindSpore")

from qvl_core.launch.board import NullBoard
from qvl_core.recipe import load_recipe
from qvl_core.tasks import RunOptions
from qvl_data import prepare
from qvl_train import loop, task, worker
from qvl_train.checkpoint import list_steps, open_checkpoint
from qvl_train.metrics import read_metrics
from thread_worlds import run_ranks

LAYOUTS = {
    "one": (),
    "zero1": ("layout.dp=2", "layout.zero1=true"),
    "pp2": ("layout.pp=2",),
    "pp2-zero1": ("layout.pp=2", "layout.dp=2", "layout.zero1=true"),
}


class NoInterrupt:
    """Signals reach the main thread only."""

    signal_name = None

    def __init__(self, *, is_alone: bool) -> None:
        pass

    def __enter__(self) -> NoInterrupt:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def without_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "Interrupt", NoInterrupt)


def run(layout: str, *settings: str, resume: str = "auto") -> None:
    """Train in threads as `qvl run` does in processes."""
    recipe = load_recipe("recipe.toml", ("train.steps=4", *LAYOUTS[layout], *settings))

    def start_workers() -> None:
        def work(world: Any) -> None:
            worker.train(recipe, options, prepare(recipe), world, NullBoard())

        for result in run_ranks(recipe.parallel, work, spec=recipe.spec):
            if isinstance(result, Exception):
                raise result

    options = RunOptions(resume=resume, start_workers=start_workers)
    if recipe.parallel.world_size == 1:
        task.run(recipe, RunOptions(resume=resume))
    else:
        task.run(recipe, options)


def rows(folder: str = "run") -> list[tuple[int, float, float]]:
    found = [row for row in read_metrics(Path(folder) / "metrics.jsonl") if "loss" in row]
    return [(row["step"], row["loss"], row["gradient_norm"]) for row in found]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".safetensors"}


@pytest.mark.parametrize("layout", ["pp2-zero1"])
def test_the_background_changes_no_byte_of_any_checkpoint(project: Path, layout: str) -> None:
    run(layout)
    run(layout, "train.save.background=false", "output.dir=inline")
    assert rows() == rows("inline")
    for step in (2, 4):
        assert files_of(project / "run" / f"step_{step:06d}") == files_of(project / "inline" / f"step_{step:06d}")
    assert sorted(step for step, path in list_steps(project / "run") if open_checkpoint(path)) == [2, 4]


@pytest.mark.parametrize("layout", ["zero1"])
def test_the_same_layout_goes_on_to_the_bit(project: Path, layout: str) -> None:
    run(layout)
    whole = rows()
    run(layout, resume="run/step_000002")
    assert rows() == whole


@pytest.mark.parametrize(
    ("first", "second"),
    [("zero1", "pp2"), ("pp2", "zero1")],
)
def test_another_layout_goes_on_with_the_same_losses(project: Path, first: str, second: str) -> None:
    run("one", "output.dir=straight")
    run(first)
    run(second, resume="run/step_000002")
    assert [step for step, *_ in rows()] == [1, 2, 3, 4]
    for (step, *found), (_, *wanted) in zip(rows(), rows("straight"), strict=True):
        assert found == pytest.approx(wanted, rel=1e-5), step
