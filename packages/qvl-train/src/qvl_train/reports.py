"""Where the steps of a run are told: metrics and progress on the first rank, nowhere on the others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from qvl_core.durable import atomic_write, explained, make_folder

if TYPE_CHECKING:
    from qvl_train.metrics import MetricsLog, Row
    from qvl_train.progress import TrainingProgress

EVALUATIONS = "evaluations"
# The key of the row that tells what ended a run whose loss or gradients were no numbers.
NOT_FINITE = "not_finite"
MEMORY_FILE = "memory.json"
MEMORY_KEY = "peak_memory_gib"


class Reports(Protocol):
    """What the loop tells."""

    def write(self, row: Row) -> None:
        """Keep one row of numbers; it has a `step`."""
        ...

    def advance(
        self, step: int, *, loss: float, step_time_s: float, tokens_per_s: float, mfu: float | None = None
    ) -> None:
        """Show that `step` is done."""
        ...

    def validating(self, done: int, total: int) -> None:
        """Show that so many micro batches of a validation are done."""
        ...

    def note(self, text: str) -> None:
        """Show a line."""
        ...

    def keep_answers(self, step: int, lines: str) -> None:
        """Keep the answers of an evaluation after `step` updates."""
        ...

    def keep_memory(self, peak_gib: Sequence[float]) -> None:
        """Keep every rank's largest resident memory."""
        ...


class FirstRankReports:
    """`metrics.jsonl`, TensorBoard, the progress bar and `memory.json`."""

    def __init__(self, folder: Path, metrics: MetricsLog, progress: TrainingProgress) -> None:
        self._folder = folder
        self._metrics = metrics
        self._progress = progress

    def write(self, row: Row) -> None:
        """Append the row."""
        self._metrics.write(row)

    def advance(
        self, step: int, *, loss: float, step_time_s: float, tokens_per_s: float, mfu: float | None = None
    ) -> None:
        """Move the bar."""
        self._progress.advance(step, loss=loss, step_time_s=step_time_s, tokens_per_s=tokens_per_s, mfu=mfu)

    def validating(self, done: int, total: int) -> None:
        """Show it at the bar."""
        self._progress.validating(done, total)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.note(text)

    def keep_answers(self, step: int, lines: str) -> None:
        """Write `evaluations/step_NNNNNN.jsonl`."""
        folder = self._folder / EVALUATIONS
        with explained(folder):
            make_folder(folder)
        atomic_write(folder / f"step_{step:06d}.jsonl", lines)

    def keep_memory(self, peak_gib: Sequence[float]) -> None:
        """Write the file."""
        atomic_write(self._folder / MEMORY_FILE, (json.dumps({MEMORY_KEY: list(peak_gib)}) + "\n").encode())


def read_memory(folder: Path) -> list[float] | None:
    """Give what the run in this folder kept of its ranks' memory; None where it kept nothing."""
    path = folder / MEMORY_FILE
    return list(json.loads(path.read_text(encoding="utf-8"))[MEMORY_KEY]) if path.exists() else None


class NoReports:
    """Nothing: the first rank tells it."""

    def write(self, row: Row) -> None:
        """Do nothing."""

    def advance(
        self, step: int, *, loss: float, step_time_s: float, tokens_per_s: float, mfu: float | None = None
    ) -> None:
        """Do nothing."""

    def validating(self, done: int, total: int) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""

    def keep_answers(self, step: int, lines: str) -> None:
        """Do nothing."""

    def keep_memory(self, peak_gib: Sequence[float]) -> None:
        """Do nothing."""
