"""Measure `qvl convert` against `cp` of the same bytes and against the usual way with torch; print JSON.

    python benchmarks/convert.py [--dir DIR] [--rounds 3] [--quick] [--torch-python PYTHON]   # speed
    python benchmarks/convert.py --scale 1,4.5,20 [--dir DIR] [--rounds 3]                    # cost of a byte
    python benchmarks/convert.py --memory [--dir DIR]                                         # 72B under a limit

Speed: a 7B checkpoint at full width cut to 4 text and 8 vision layers (4.45 GB of random bytes), imported, resharded
and exported as whole processes, each right after `cp -r` and a sync of its own source; a ratio is the median of the
rounds' ratios. Scale: the same for other sizes and numbers of files. Memory: 72B at full width, 2 + 2 layers (8.6 GB),
with an address space of the interpreter's own after its imports + 512 MiB and, where a memory cgroup may be made, one
of that size. Everything is written below --dir, by default runs/, and removed at the end. Nothing here is a test.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from pathlib import Path
from typing import Any

from conversion.memory import MEMORY_GB, measure_memory
from conversion.processes import FailedError, work_folder
from conversion.scale import measure_scale
from conversion.speed import measure_speed

ROOT = Path(__file__).resolve().parent.parent
SPEED_GB, QUICK_GB = 18.0, 5.0


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, default=ROOT / "runs", help="on the disk that is to be measured")
    parser.add_argument("--rounds", type=int, help="3; 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="1 GB in place of 4.45")
    parser.add_argument("--torch-python", metavar="PYTHON", help="an interpreter with torch and safetensors")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--scale", metavar="GB,GB,...", type=_sizes, help="cost of a byte at these sizes")
    kind.add_argument("--memory", action="store_true", help="72B at full width under a memory limit")
    given = parser.parse_args()
    rounds = given.rounds or (1 if given.quick else 3)
    # A job system's way to end a run takes the way of Ctrl-C: what was written is removed.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    report: dict[str, Any] = {"machine": _machine()}
    try:
        if given.memory:
            with work_folder(given.dir, MEMORY_GB) as work:
                report |= measure_memory(work)
        elif given.scale:
            with work_folder(given.dir, 2.1 * max(*given.scale, 4.7)) as work:
                report |= measure_scale(work, given.scale, rounds)
        else:
            with work_folder(given.dir, QUICK_GB if given.quick else SPEED_GB) as work:
                report |= measure_speed(work, rounds, quick=given.quick, torch_python=given.torch_python)
    except FailedError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    report["machine"]["load_at_end"] = os.getloadavg()[0]
    print(json.dumps(report, indent=2))


def _sizes(text: str) -> list[float]:
    return [float(size) for size in text.split(",")]


def _machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_at_start": os.getloadavg()[0],
    }


if __name__ == "__main__":
    main()
