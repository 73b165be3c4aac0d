"""SIGKILL of a random rank at a random moment, again and again, also while a checkpoint is written.

One run lives many short lives: each is killed and the next goes on from what it left. At the end the curve has to be
that of a run that nobody touched, to the bit. The seed is printed; `QVL_TEST_SEED` chooses another one.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from project import EVERY, REPLICAS, SINGLE, STAGES, Shape
from running import (
    STOP_LIMIT_S,
    Run,
    curve,
    kill_in_a_while,
    last_step,
    metrics_file,
    newest_checkpoint,
    unfinished,
)

SEED = int(os.environ.get("QVL_TEST_SEED", "20261126"))
# Long enough that a kill falls into every part of a save, short enough that steps go on beside it.
SLOW_FSYNC_S = "0.02"
# Of each of the three layouts.
KILLS = int(os.environ.get("QVL_TEST_KILLS", "10"))


@dataclass(frozen=True, kw_only=True)
class Life:
    """What a kill met: `told` is the last step that was done, `before` and `newest` the checkpoints around it."""

    rank: int
    told: int
    before: int
    newest: int
    in_save: bool
    stopped_s: float


def live_and_die(run: Run, generator: random.Random, *, in_save: bool, old_file: int) -> Life:
    """Let a run do some steps, or begin a save, kill one of its ranks and wait until all of it is gone."""
    folder, before = run.folder, newest_checkpoint(run.folder)
    run.until(lambda: metrics_file(folder) != old_file, "first step")
    if in_save:
        # What dead runs left is gone by now.
        run.until(lambda: bool(unfinished(folder)), "save")
    else:
        wanted = before + generator.randint(1, EVERY)
        run.until(lambda: last_step(folder) >= wanted, f"step {wanted}")
    rank = kill_in_a_while(run, generator, 0.3 if in_save else 1.0)
    stopped_s = run.end(STOP_LIMIT_S)
    return Life(
        rank=rank,
        told=last_step(folder),
        before=before,
        newest=newest_checkpoint(folder),
        in_save=bool(unfinished(folder)),
        stopped_s=stopped_s,
    )


@pytest.mark.parametrize("shape", [SINGLE, REPLICAS, STAGES], ids=lambda shape: shape.name)
def test_a_run_that_is_killed_again_and_again_gives_the_curve_of_an_undisturbed_one(
    project: Path,
    begin: Callable[..., Run],
    undisturbed: Callable[[Shape, int], object],
    report: list[dict[str, object]],
    shape: Shape,
) -> None:
    steps = [f"train.steps={2 * KILLS + 4}"]
    expected = undisturbed(shape, 2 * KILLS + 4)
    generator = random.Random(f"{SEED} {shape.name}")
    print(f"seed {SEED}")
    folder, during_saves = project / f"killed_{shape.name}", 0
    for number in range(KILLS):
        old_file = metrics_file(folder)
        run = begin(folder.name, shape, settings=steps, QVL_TEST_SLOW_FSYNC=SLOW_FSYNC_S)
        life = live_and_die(run, generator, in_save=number % 2 == 1, old_file=old_file)
        assert run.process.returncode != 0, run.output()
        if shape.ranks > 1:
            assert f"rank {life.rank} " in run.output(), run.output()
        assert life.newest >= life.before
        lost = life.told - life.newest
        assert lost <= EVERY, f"kill {number}: step {life.told} was done, the newest checkpoint is {life.newest}"
        during_saves += life.in_save
        fault = {"fault": "SIGKILL of a rank", "layout": shape.name, "seed": SEED, "number": number}
        # A run of one rank has no launcher that would tell of the kill: its exit code does.
        fired = run.process.returncode == -signal.SIGKILL if shape.ranks == 1 else "SIGKILL" in run.output()
        report.append({**fault, **asdict(life), "fired": fired, "lost_steps": lost, "processes_left": len(run.left())})
        assert fired, run.output()
    assert during_saves >= KILLS // 5, f"only {during_saves} of {KILLS} kills fell into a save"
    last = begin(folder.name, shape, settings=steps)
    last.end()
    assert last.process.returncode == 0, last.output()
    assert curve(folder) == expected
    assert not unfinished(folder), "something that a dead run left is still there"
