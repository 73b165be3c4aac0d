"""Run one command of qvl in this interpreter, with no more address space than it has after its imports + a limit.

python limited.py MIB [--cgroup FOLDER] convert import ...
"""

from __future__ import annotations

import os
import resource
import sys
from importlib import import_module
from pathlib import Path

# What the commands import when they are called: all there before the limit is set.
IMPORTED = ("qvl_core.cli.app", "qvl_convert.jobs", "qvl_convert.verify", "qvl_core.recipe", "numpy", "rich.progress")


def address_space_bytes() -> int:
    """Give the largest address space that this process has had."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmPeak"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Import, take the limits, and run the command."""
    words = sys.argv[1:]
    more = int(words.pop(0)) * 1024**2
    if words[0] == "--cgroup":
        Path(words[1], "cgroup.procs").write_text(str(os.getpid()))
        words = words[2:]
    for name in IMPORTED:
        import_module(name)
    limit = address_space_bytes() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.exit(import_module("qvl_core.cli.app").main(words))


main()
