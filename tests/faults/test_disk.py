"""A disk that is full while a run saves: it says so, stops or goes on as the recipe says, and keeps what it had."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from project import EVERY, REPLICAS, SINGLE, Shape
from running import Run, curve, last_step, newest_checkpoint, unfinished

STEPS = 12
SETTINGS = (f"train.steps={STEPS}", "train.save.keep=1")


@pytest.fixture
def small_disk(project: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[int], Path]]:
    """Give a function that makes a file system of so many bytes, a folder of the project."""
    if os.geteuid() != 0:
        pytest.skip("a small file system needs root; RLIMIT_FSIZE stands in for it in the tests of qvl-train")
    made: list[Path] = []

    def make(size: int) -> Path:
        folder = project / f"disk_{request.node.name[-30:].strip('[]')}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"tmpfs cannot be mounted here: {done.stderr.strip()}")
        made.append(folder)
        return folder

    yield make
    for folder in made:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def checkpoint_bytes(project: Path, undisturbed: Callable[[Shape, int], object]) -> int:
    """Give what a checkpoint of the run takes."""
    undisturbed(SINGLE, STEPS)
    folder = project / f"undisturbed_{SINGLE.name}_{STEPS}" / f"step_{STEPS:06d}"
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize("shape", [SINGLE, REPLICAS], ids=lambda shape: shape.name)
def test_a_full_disk_stops_the_run_cleanly_and_the_last_checkpoint_is_what_it_goes_on_from(
    project: Path,
    begin: Callable[..., Run],
    undisturbed: Callable[[Shape, int], object],
    report: list[dict[str, object]],
    small_disk: Callable[[int], Path],
    checkpoint_bytes: int,
    shape: Shape,
) -> None:
    expected = undisturbed(shape, STEPS)
    disk = small_disk(int(checkpoint_bytes * 1.6))
    folder = disk / "run"
    run = begin(str(folder.relative_to(project)), shape, settings=SETTINGS)
    run.end()
    output = run.output()
    assert run.process.returncode == 1, output
    assert "No space left on device" in output
    assert "GiB are free there" in output
    assert "Traceback" not in output
    assert newest_checkpoint(folder) == EVERY
    assert not unfinished(folder), "the part that was written is removed"
    report.append(
        {"fault": "disk full, stop", "layout": shape.name, "fired": True, "told": last_step(folder),
         "newest": EVERY, "processes_left": len(run.left())}
    )  # fmt: skip
    subprocess.run(["mount", "-o", f"remount,size={checkpoint_bytes * 4}", str(disk)], check=True)
    again = begin(str(folder.relative_to(project)), shape, settings=SETTINGS)
    again.end()
    assert again.process.returncode == 0, again.output()
    assert curve(folder) == expected


def test_a_full_disk_does_not_stop_a_run_that_shall_go_on_and_the_next_save_succeeds(
    project: Path,
    begin: Callable[..., Run],
    undisturbed: Callable[[Shape, int], object],
    report: list[dict[str, object]],
    small_disk: Callable[[int], Path],
    checkpoint_bytes: int,
) -> None:
    expected = undisturbed(SINGLE, STEPS)
    disk = small_disk(checkpoint_bytes * 4)
    filler, folder = disk / "filler", disk / "run"
    filler.write_bytes(bytes(int(checkpoint_bytes * 2.4)))
    name = str(folder.relative_to(project))
    # After the save of step 9, which fails as the one before: the last one waits for room.
    held = {"QVL_TEST_FAULT": "await_file:0:11", "QVL_TEST_GO": str(project / "room")}
    run = begin(name, SINGLE, settings=(*SETTINGS, 'train.save.on_error="continue"'), **held)
    run.until(lambda: "No space left on device" in run.output(), "failed save")
    filler.unlink()
    (project / "room").touch()
    run.end()
    output = run.output()
    assert run.process.returncode == 0, output
    assert "warning: " in output
    assert newest_checkpoint(folder) == STEPS
    assert curve(folder) == expected
    report.append(
        {"fault": "disk full, continue", "layout": SINGLE.name, "fired": True, "told": STEPS, "newest": STEPS}
    )
