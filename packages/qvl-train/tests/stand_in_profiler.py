"""What stands for MindSpore's profiler in tests, and steps that are taken under it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qvl_train.profiling import StepProfile


class Profiler:
    """Stands for MindSpore's: notes what is asked of it, and leaves a trace where it is stopped."""

    def __init__(self, calls: list[str], *, fails: str = "", leaves: bool = True) -> None:
        self._calls = calls
        self._fails = fails
        self._leaves = leaves
        self._folder = Path()
        self._steps = 0

    def make(self, folder: Path, steps: int) -> Any:
        self._folder = folder
        self._steps = steps
        return self

    def start(self) -> None:
        self._note(f"start {self._steps}")

    def step(self) -> None:
        self._note("step")

    def stop(self) -> None:
        self._note("stop")
        if self._leaves:
            (self._folder / "trace_view.json").write_text("[]")

    def _note(self, call: str) -> None:
        self._calls.append(call)
        if self._fails and call.startswith(self._fails):
            raise RuntimeError("no such\ndevice")


def run(
    folder: Path, steps: tuple[int, int] | None, taken: range, profiler: Profiler, marks: list[str] | None = None
) -> list[str]:
    """Take steps under a profile of some of them, and give what is said; phases go to `marks`."""
    said: list[str] = []
    mark = (marks if marks is not None else []).append
    with StepProfile(folder / "rank_000", steps, profiler.make, say=said.append, mark=mark) as profile:
        for step in taken:
            profile.before(step)
            profile.after(step)
    return said
