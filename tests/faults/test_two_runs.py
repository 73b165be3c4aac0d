"""Two runs into one output folder, started together: one works, the other is told by whom the folder is taken."""

from __future__ import annotations

import random
import re
import signal
import time
from collections.abc import Callable

import pytest
from project import REPLICAS, SINGLE, Shape
from running import PATIENCE_S, Run

TRIES = 8


@pytest.mark.parametrize(("shape", "tries"), [(SINGLE, TRIES), (REPLICAS, 2)], ids=["single", "dp2-zero1"])
def test_of_two_runs_into_one_folder_one_is_refused_with_the_process_that_has_it(
    begin: Callable[..., Run], report: list[dict[str, object]], shape: Shape, tries: int
) -> None:
    generator = random.Random(7)
    for number in range(tries):
        # A run so long that the loser cannot find it finished.
        options = {"settings": ["train.steps=100000", f"launch.master=localhost:{29700 + number}"]}
        runs = [begin(f"shared_{shape.name}_{number}", shape, **options)]
        time.sleep(generator.uniform(0.0, 0.05))
        options["settings"][1] = f"launch.master=localhost:{29800 + number}"
        runs.append(begin(f"shared_{shape.name}_{number}", shape, **options))
        deadline = time.monotonic() + PATIENCE_S
        while all(run.process.poll() is None for run in runs):
            assert time.monotonic() < deadline, "nobody was refused"
            time.sleep(0.02)
        loser, winner = sorted(runs, key=lambda run: run.process.poll() is None)
        assert loser.process.returncode == 2, loser.output()
        assert winner.process.poll() is None
        # Both write into one log here; only the refused one says this.
        found = re.search(r"another process is writing here: process (\d+) on ", loser.output())
        changed = "another process has used this folder while this one was checking its input" in loser.output()
        assert changed or (found is not None and int(found[1]) == winner.process.pid), loser.output()
        winner.process.send_signal(signal.SIGKILL)
        winner.end()
        report.append(
            {"fault": "two runs in one folder", "layout": shape.name, "number": number, "fired": True,
             "refused": 1, "processes_left": len(winner.left())}
        )  # fmt: skip
