"""Going on with something else than what was begun: refused with every difference, done only when told to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from project import EVERY, REPLICAS, SINGLE, STAGES
from running import Run, curve, last_step, newest_checkpoint

STEPS = 6
DATA = "changing.json"
SOURCES = f'data.sources=[{{path="{DATA}", format="llava"}}]'


@pytest.fixture
def stopped(project: Path, begin: Callable[..., Run], request: pytest.FixtureRequest) -> Path:
    """Give the folder of a run on data of its own that has been killed before its last save."""
    folder = project / f"changed_{request.node.name[5:35]}"
    shutil.copy(project / "train.json", project / DATA)
    run = begin(folder.name, SINGLE, settings=[f"train.steps={STEPS}", SOURCES])
    run.end()
    assert run.process.returncode == 0, run.output()
    # As if it had been killed before its last save.
    shutil.rmtree(folder / f"step_{STEPS:06d}")
    record = json.loads((folder / "run.json").read_text())
    record["result"] = None
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def go_on(begin: Callable[..., Run], folder: Path, *words: str, settings: Sequence[str] = ()) -> Run:
    run = begin(folder.name, SINGLE, *words, settings=[f"train.steps={STEPS}", SOURCES, *settings])
    run.end()
    return run


def test_a_changed_recipe_is_refused_with_each_difference_and_taken_when_told_so(
    begin: Callable[..., Run], stopped: Path
) -> None:
    other = ["train.optimizer.lr=2e-3", "train.schedule.warmup=0.2"]
    refused = go_on(begin, stopped, settings=other)
    assert refused.process.returncode == 2, refused.output()
    assert "train.optimizer.lr: here 0.002, there 0.001" in refused.output()
    assert "train.schedule.warmup: here 0.2, there 0.1" in refused.output()
    assert newest_checkpoint(stopped) == EVERY
    taken = go_on(begin, stopped, "--accept-changes", settings=other)
    assert taken.process.returncode == 0, taken.output()
    assert last_step(stopped) == STEPS
    text = (stopped / "run.json").read_text()
    assert "train.optimizer.lr" in text, "what was changed is on record"


def test_changed_data_is_refused_and_taken_when_told_so(
    project: Path, begin: Callable[..., Run], stopped: Path
) -> None:
    records = json.loads((project / DATA).read_text())
    (project / DATA).write_text(json.dumps([*records[1:], records[0]]))
    refused = go_on(begin, stopped)
    assert refused.process.returncode == 2, refused.output()
    assert "data hash: here " in refused.output()
    taken = go_on(begin, stopped, "--accept-changes")
    assert taken.process.returncode == 0, taken.output()


def test_a_requested_step_in_another_layout_gives_the_same_curve_within_rounding(
    project: Path, begin: Callable[..., Run], undisturbed: Callable[..., list[tuple[int, str, str]]]
) -> None:
    expected = undisturbed(SINGLE, 9)
    folder = project / "requested"
    run = begin(folder.name, SINGLE, settings=["train.steps=9"])
    run.end()
    assert run.process.returncode == 0, run.output()
    for shape in (REPLICAS, STAGES):
        again = begin(folder.name, shape, "--resume", f"{folder.name}/step_{6:06d}", settings=["train.steps=9"])
        again.end()
        assert again.process.returncode == 0, again.output()
        found = curve(folder)
        assert found[:6] == expected[:6], "the steps before are kept as they were"
        for (step, loss, _), (_, wanted, _) in zip(found, expected, strict=True):
            # 1e-5: sums over ranks are added in another order than in one process.
            assert float.fromhex(loss) == pytest.approx(float.fromhex(wanted), rel=1e-5), f"step {step} of {shape.name}"


def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(
    begin: Callable[..., Run], stopped: Path
) -> None:
    run = go_on(begin, stopped, "--resume", f"{stopped.name}/step_{EVERY + 1:06d}")
    assert run.process.returncode == 2, run.output()
    assert f"step_{EVERY:06d}" in run.output()
