"""Signals, as a scheduler sends them before it takes a machine away: everything done is kept, and nothing is wrong."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from project import EVERY, REPLICAS, SINGLE, STAGES, Shape
from qvl_core.error_text import EXIT_INTERRUPTED
from qvl_core.launch.stop_request import SAME_REQUEST_S
from running import Run, curve, last_step, newest_checkpoint, unfinished

STEPS = 9
# A rank waits in its fifth step until it is asked to stop: however fast the machine is, the run is not over by then.
HELD = "await_request:0:5"


@pytest.mark.parametrize("shape", [REPLICAS, STAGES], ids=lambda shape: shape.name)
def test_sigterm_saves_what_was_done_exits_0_and_the_command_goes_on_to_the_bit(
    project: Path,
    begin: Callable[..., Run],
    undisturbed: Callable[[Shape, int], object],
    report: list[dict[str, object]],
    shape: Shape,
) -> None:
    expected = undisturbed(shape, STEPS)
    folder = project / f"terminated_{shape.name}"
    run = begin(folder.name, shape, settings=[f"train.steps={STEPS}"], QVL_TEST_FAULT=HELD)
    run.until(lambda: last_step(folder) >= 4, "step 4")
    run.process.send_signal(signal.SIGTERM)
    require_stopped_and_saved(run, report, "SIGTERM")
    assert last_step(folder) < STEPS, "the signal came too late to interrupt anything"
    again = begin(folder.name, shape, settings=[f"train.steps={STEPS}"])
    again.end()
    assert again.process.returncode == 0, again.output()
    assert curve(folder) == expected
    assert not unfinished(folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_signal_to_every_process_of_the_job_is_one_request(
    project: Path,
    begin: Callable[..., Run],
    undisturbed: Callable[[Shape, int], object],
    report: list[dict[str, object]],
    number: signal.Signals,
) -> None:
    expected = undisturbed(REPLICAS, STEPS)
    folder = project / f"all_{number.name}"
    # The last save takes far longer than mpiexec would leave to processes that it ends.
    settings = [f"train.steps={STEPS}", "train.save.every=1000"]
    run = begin(folder.name, REPLICAS, settings=settings, QVL_TEST_SLOW_FSYNC="0.4", QVL_TEST_FAULT=HELD)
    run.until(lambda: last_step(folder) >= 4, "step 4")
    for member in run.family():
        os.kill(member.process, number)
    require_stopped_and_saved(run, report, f"{number.name} to all processes")
    again = begin(folder.name, REPLICAS, settings=[f"train.steps={STEPS}"])
    again.end()
    assert again.process.returncode == 0, again.output()
    assert curve(folder) == expected


@pytest.mark.parametrize("shape", [SINGLE, REPLICAS], ids=lambda shape: shape.name)
def test_sigusr1_saves_what_was_done_and_exits_0(
    project: Path, begin: Callable[..., Run], report: list[dict[str, object]], shape: Shape
) -> None:
    folder = project / f"warned_{shape.name}"
    run = begin(folder.name, shape, settings=["train.steps=1000"], QVL_TEST_FAULT=HELD)
    run.until(lambda: last_step(folder) >= 4, "step 4")
    run.process.send_signal(signal.SIGUSR1)
    require_stopped_and_saved(run, report, "SIGUSR1")


@pytest.mark.parametrize("shape", [SINGLE, REPLICAS], ids=lambda shape: shape.name)
def test_a_second_sigterm_leaves_at_once_and_the_last_checkpoint_stays(
    project: Path, begin: Callable[..., Run], report: list[dict[str, object]], shape: Shape
) -> None:
    folder = project / f"terminated_twice_{shape.name}"
    # One sync of its files takes far longer than the second request.
    settings = ["train.steps=1000", "train.save.every=1000"]
    run = begin(folder.name, shape, settings=["train.steps=1000"])
    run.until(lambda: newest_checkpoint(folder) >= EVERY, "first checkpoint")
    run.process.send_signal(signal.SIGTERM)
    run.end()
    before = newest_checkpoint(folder)
    run = begin(folder.name, shape, settings=settings, QVL_TEST_SLOW_SAVE="12")
    run.until(lambda: last_step(folder) > before, "first step")
    run.process.send_signal(signal.SIGTERM)
    run.until(lambda: bool(unfinished(folder)), "last save")
    time.sleep(SAME_REQUEST_S + 0.1)
    run.process.send_signal(signal.SIGTERM)
    seconds = run.end()
    assert run.process.returncode == EXIT_INTERRUPTED, run.output()
    assert "stopped by" not in run.output().rpartition("training from step")[2]
    assert newest_checkpoint(folder) == before, "the last save was not over"
    report.append(
        {"fault": "second SIGTERM", "layout": shape.name, "fired": True, "told": last_step(folder), "newest": before,
         "stopped_s": round(seconds, 2), "processes_left": len(run.left())}
    )  # fmt: skip


def require_stopped_and_saved(run: Run, report: list[dict[str, object]], fault: str) -> None:
    """Wait for the end of a run that was asked to stop, and require that nothing of it is lost or left."""
    sent, asked = time.monotonic(), last_step(run.folder)
    run.end()
    assert run.process.returncode == 0, run.output()
    done = last_step(run.folder)
    assert newest_checkpoint(run.folder) == done >= asked, "nothing is lost"
    stopped = re.search(r"stopped by (SIG\w+) after step (\d+), saved as", run.output())
    assert stopped is not None, run.output()
    assert int(stopped[2]) == done
    assert "Traceback" not in run.output()
    report.append(
        {"fault": fault, "layout": run.shape.name, "fired": True, "told": done, "newest": newest_checkpoint(run.folder),
         "lost_steps": done - newest_checkpoint(run.folder), "stopped_s": round(time.monotonic() - sent, 2),
         "processes_left": len(run.left())}
    )  # fmt: skip
