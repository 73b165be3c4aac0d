"""SIGTERM, as a scheduler sends it before it takes the machine away: everything done is kept, and nothing is wrong."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from project import REPLICAS, STAGES, Shape
from running import STOP_LIMIT_S, Run, curve, last_step, newest_checkpoint, unfinished

STEPS = 9


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
    run = begin(folder.name, shape, settings=[f"train.steps={STEPS}"])
    run.until(lambda: last_step(folder) >= 4, "step 4")
    run.process.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    run.end()
    assert run.process.returncode == 0, run.output()
    done = last_step(folder)
    assert 4 <= done < STEPS, "the signal came too late to interrupt anything"
    assert newest_checkpoint(folder) == done, "nothing is lost"
    assert f"stopped by SIGTERM after step {done}" in run.output()
    assert "Traceback" not in run.output()
    report.append(
        {"fault": "SIGTERM", "layout": shape.name, "fired": True, "told": done, "lost_steps": 0,
         "stopped_s": round(time.monotonic() - sent, 2), "processes_left": 0}
    )  # fmt: skip
    again = begin(folder.name, shape, settings=[f"train.steps={STEPS}"])
    again.end()
    assert again.process.returncode == 0, again.output()
    assert curve(folder) == expected
    assert not unfinished(folder)


def test_a_second_sigterm_leaves_at_once_and_the_last_checkpoint_stays(
    project: Path, begin: Callable[..., Run]
) -> None:
    folder = project / "terminated_twice"
    run = begin(folder.name, REPLICAS, settings=["train.steps=1000"], QVL_TEST_SLOW_FSYNC="0.2")
    run.until(lambda: bool(unfinished(folder)) and newest_checkpoint(folder) > 0, "second save")
    run.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    run.process.send_signal(signal.SIGTERM)
    assert run.end(STOP_LIMIT_S) < STOP_LIMIT_S
    assert newest_checkpoint(folder) > 0
