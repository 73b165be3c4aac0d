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
# A small checkpoint is complete before the next step is told, however busy the machine is.
SETTLE_S = "600"
# Of each of the three layouts.
KILLS = int(os.environ.get("QVL_TEST_KILLS", "10"))
# When a life ends, one after the other: some time after a step, before a sync of a save, again, some time after a save
# has begun.
KINDS = ("step", "sync", "step", "save")


@dataclass(frozen=True, kw_only=True)
class Life:
    """What a kill met: `told` is the last step that was done, `before` and `newest` the checkpoints around it."""

    rank: int
    told: int
    before: int
    newest: int
    in_save: bool
    stopped_s: float


def live_and_die(begin: Callable[..., Run], shape: Shape, folder: Path, steps: int, chance: random.Random, kind: str):
    """Let a run do some steps, or begin a save, have one of its ranks killed and wait until all of it is gone."""
    before, old_file = newest_checkpoint(folder) if folder.exists() else 0, metrics_file(folder)
    wanted = before + chance.randint(1, EVERY)
    # A rank that is asleep holds up the others: however fast the machine is, the run is not over before the kill.
    last = EVERY + 2 if kind == "save" else wanted - before + 2
    faults = {"QVL_TEST_SLOW_FSYNC": SLOW_FSYNC_S, "QVL_TEST_SETTLE": SETTLE_S, "QVL_TEST_FAULT": f"sleep:0:{last}"}
    if kind == "sync":
        rank = chance.randrange(shape.ranks)
        # The first rank has several files, the others one at least.
        faults["QVL_TEST_KILL_IN_SAVE"] = f"{rank}:{chance.randint(1, 1 if rank else 3)}"
        del faults["QVL_TEST_FAULT"]
    run = begin(folder.name, shape, settings=[f"train.steps={steps}"], **faults)
    if kind != "sync":
        run.until(lambda: metrics_file(folder) != old_file, "first step")
        if kind == "save":
            # What dead runs left is gone by now.
            run.until(lambda: bool(unfinished(folder)), "save")
        else:
            run.until(lambda: last_step(folder) >= wanted, f"step {wanted}")
        rank = kill_in_a_while(run, chance, 0.3 if kind == "save" else 1.0)
    stopped_s = run.end()
    life = Life(
        rank=rank,
        told=last_step(folder),
        before=before,
        newest=newest_checkpoint(folder),
        in_save=bool(unfinished(folder)),
        stopped_s=stopped_s,
    )
    return run, life


@pytest.mark.parametrize("shape", [SINGLE, REPLICAS, STAGES], ids=lambda shape: shape.name)
def test_a_run_that_is_killed_again_and_again_gives_the_curve_of_an_undisturbed_one(
    project: Path,
    begin: Callable[..., Run],
    undisturbed: Callable[[Shape, int], object],
    report: list[dict[str, object]],
    shape: Shape,
) -> None:
    # More than all lives can do before they end.
    steps = 3 * KILLS + 4
    expected = undisturbed(shape, steps)
    generator = random.Random(f"{SEED} {shape.name}")
    print(f"seed {SEED}")
    folder, during_saves = project / f"killed_{shape.name}", 0
    for number in range(KILLS):
        kind = KINDS[number % len(KINDS)]
        run, life = live_and_die(begin, shape, folder, steps, generator, kind)
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
        assert kind != "sync" or life.in_save, "it was killed in a save"
    assert during_saves >= KILLS // len(KINDS), f"only {during_saves} of {KILLS} kills fell into a save"
    last = begin(folder.name, shape, settings=[f"train.steps={steps}"])
    last.end()
    assert last.process.returncode == 0, last.output()
    assert curve(folder) == expected
    assert not unfinished(folder), "something that a dead run left is still there"
