"""Measure how long qvl's commands take to start, against `python -c "import pydantic, typer"`; print JSON.

    python benchmarks/startup.py [--rounds 15]

Whole processes, one after the other in every round, so that a busy machine slows all of them. `ratio` is the median of
the rounds' ratios of wall-clock time, `cpu_ratio` that of processor time; `memory_mib` is the largest resident size.
The budget for `--help` and `check` is a ratio of 3, for the dry run 200 MiB. Nothing here is a test.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECIPE = "recipes/72b_sft.toml"
BASE = ["-c", "import pydantic, typer"]
COMMANDS = {
    "qvl --help": ["-m", "qvl_core.cli", "--help"],
    f"qvl check {RECIPE}": ["-m", "qvl_core.cli", "check", RECIPE],
    f"qvl show {RECIPE}": ["-m", "qvl_core.cli", "show", RECIPE],
    f"qvl run {RECIPE} --dry-run": ["-m", "qvl_core.cli", "run", RECIPE, "--dry-run"],
}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One process: wall-clock and processor seconds, and the largest resident size, MiB."""

    wall_s: float
    cpu_s: float
    memory_mib: float


def measure(arguments: list[str]) -> Measured:
    """Run one Python process to its end."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status:
        sys.exit(f"{arguments} ended with {os.waitstatus_to_exitcode(status)}")
    return Measured(wall_s=wall, cpu_s=usage.ru_utime + usage.ru_stime, memory_mib=usage.ru_maxrss / 1024)


def main() -> None:
    """Measure every command in every round and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    # `nox -s bench -- --quick` gives the same words to every script.
    rounds = parser.parse_known_args()[0].rounds
    base: list[Measured] = []
    found: dict[str, list[Measured]] = {name: [] for name in COMMANDS}
    measure(BASE)  # fills the file cache
    for _ in range(rounds):
        base.append(measure(BASE))
        for name, arguments in COMMANDS.items():
            found[name].append(measure(arguments))
    report = {
        name: {
            "ratio": round(statistics.median(a.wall_s / b.wall_s for a, b in zip(runs, base, strict=True)), 2),
            "cpu_ratio": round(statistics.median(a.cpu_s / b.cpu_s for a, b in zip(runs, base, strict=True)), 2),
            "wall_s": round(statistics.median(run.wall_s for run in runs), 3),
            "memory_mib": round(max(run.memory_mib for run in runs), 1),
        }
        for name, runs in found.items()
    }
    base_s = round(statistics.median(run.wall_s for run in base), 3)
    print(json.dumps({"rounds": rounds, "base_s": base_s, **report}, indent=2))


if __name__ == "__main__":
    main()
