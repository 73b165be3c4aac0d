"""Measure training in several processes against one, on this machine's CPU; print JSON.

    python benchmarks/parallel.py [--rounds 5] [--steps 2] [--quick] [--only steps|start]

`steps`: one step of the tiny model, the same 16 samples in micro batches of 2, in layouts of 1, 2, 4 and 8 processes.
All run in the same eight processes, one layout after the other in every round, so that a busy machine slows all of
them; a ratio is that of a round, given as median, least and most. `processor_ratio` compares the processor time of all
ranks together, which depends less on what else runs. `share` is how the ranks spend a step on average, found in steps
of their own: a barrier before each collective tells waiting for others from talking to them. `memory` is counted from
the arrays that a rank holds, against the parameter table.

`start`: whole runs of `qvl run recipes/tiny_sft.toml`, from the start of the command to the first step's line in
metrics.jsonl, with the launcher's stamps (seconds until the last rank got there) and the largest resident size.

With more ranks than cores no layout can be faster than one process; what is seen is what cutting costs. Nothing here
says anything about NPUs, and nothing is a test.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from parallelism.first_step import measure_first_step
from parallelism.steps import FailedError, measure_steps

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, help="5; 2 with --quick")
    parser.add_argument("--steps", type=int, default=2, help="of each layout in a round")
    parser.add_argument("--quick", action="store_true", help="fewer layouts and rounds")
    parser.add_argument("--only", choices=("steps", "start"))
    # `nox -s bench -- --quick` gives the same words to every script.
    given = parser.parse_known_args()[0]
    rounds = given.rounds or (2 if given.quick else 5)
    report: dict[str, Any] = {
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
            "load_at_start": os.getloadavg()[0],
        },
        "rounds": rounds,
    }
    try:
        if given.only != "start":
            report["steps"] = measure_steps(ROOT, rounds, given.steps, quick=given.quick)
        if given.only != "steps":
            report["start"] = measure_first_step(ROOT, rounds)
    except FailedError as error:
        sys.exit(str(error))
    report["machine"]["load_at_end"] = os.getloadavg()[0]
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
