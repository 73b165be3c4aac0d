"""The planner's figures: what `qvl plan` costs, how far it is off, what it finds; print JSON.

    python benchmarks/plan.py [--quick] [--runs 5]

`command`: time and memory of `qvl plan recipes/72b_sft.toml --devices 1024` in a process of its own, interpreter and
imports included, beside an interpreter that imports nothing and `qvl check` of the same recipe, in turns. `published`:
memory that others have published, beside the plan of their settings. `measured`: memory on this machine's CPU beside
the plan (not with --quick: minutes). `sizes`: the reference's layouts against the best plans by the same account.
`scale`: 72B from 16 to 1,024 devices. But for `command` and `measured` all of it is arithmetic: nothing was run on a
device.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from planning.figures import ROOT, scale, sizes
from planning.memory import CASES, measure
from planning.published import NOT_PLANNED, compare, compare_speed
from qvl_core.planner.job import MEGATRON

PLAN = ("-m", "qvl_core.cli", "plan", "recipes/72b_sft.toml", "--devices", "1024", "--memory-gib", "64")
CHECK = ("-m", "qvl_core.cli", "check", "recipes/72b_sft.toml")
COMMANDS = {"qvl plan": PLAN, "qvl check": CHECK, "interpreter alone": ("-c", "pass")}


def main() -> None:
    """Work out what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="measure no model's memory")
    parser.add_argument("--runs", type=int, default=5, help="of the command")
    given = parser.parse_known_args()[0]
    report: dict[str, Any] = {
        "command": command(given.runs),
        "published": {"points": compare(), "speed": compare_speed(), "not planned": NOT_PLANNED},
        "sizes": sizes(),
        "sizes, activations kept": sizes(MEGATRON),
        "scale": scale(),
    }
    if not given.quick:
        report["measured"] = measure(list(CASES))
    print(json.dumps(report, indent=2))


def command(runs: int) -> dict[str, Any]:
    """Run the commands in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    wall: dict[str, list[float]] = {name: [] for name in COMMANDS}
    peaks: dict[str, int] = {}
    load = os.getloadavg()[0]
    for _ in range(runs):
        for name, words in COMMANDS.items():
            took, used, peak = _run(words)
            wall[name].append(took)
            seconds[name].append(used)
            peaks[name] = max(peaks.get(name, 0), peak)
    return {
        "load_at_start": load,
        **{
            name: {
                "wall_s": _spread(wall[name]),
                "processor_s": _spread(seconds[name]),
                "peak_mb": round(peaks[name] / 1e3, 1),
            }
            for name in COMMANDS
        },
    }


def _run(words: tuple[str, ...]) -> tuple[float, float, int]:
    """Give wall seconds, processor seconds and peak KB of one process."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{words} ended with {process.returncode}")
    return took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
    }


if __name__ == "__main__":
    main()
