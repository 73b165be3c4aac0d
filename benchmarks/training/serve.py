"""The measured process's side of the conversation: one JSON line in, one out, with time and memory of what was done."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a measured process is started with."""

    folder: Path
    core: int
    frozen: tuple[str, ...]
    labels: str

    @classmethod
    def from_arguments(cls) -> Order:
        """Read it from the command line and go to the core, before anything that starts threads is imported."""
        given = json.loads(sys.argv[1])
        os.sched_setaffinity(0, {given["core"]})
        return cls(
            folder=Path(given["folder"]), core=given["core"], frozen=tuple(given["frozen"]), labels=given["labels"]
        )


def serve(versions: Mapping[str, str], actions: Mapping[str, Callable[[], Any]]) -> None:
    """Answer with what an action gives and what it took, until the input ends."""
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _say(answers, {"versions": dict(versions), "resident_gib": _resident("VmRSS")})
    for line in sys.stdin:
        _forget_peak()
        wall, processor = time.perf_counter(), time.process_time()
        value = actions[line.strip()]()
        took = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - processor}
        _say(answers, {"value": value, **took, "peak_gib": _resident("VmHWM")})


def _say(answers: Any, value: dict[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


def _forget_peak() -> None:
    """Let the kernel count the peak of resident memory from here."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _resident(key: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{key}:"):
            return round(int(line.split()[1]) / 1024**2, 3)
    raise AssertionError(f"/proc/self/status has no {key}")
