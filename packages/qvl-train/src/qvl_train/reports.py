"""Where the steps of a run are told: metrics and progress on the first rank, nowhere on the others."""

from __future__ import annotations

from typing import Protocol

from qvl_train.metrics import MetricsLog, Row
from qvl_train.progress import TrainingProgress


class Reports(Protocol):
    """What the loop tells."""

    def write(self, row: Row) -> None:
        """Keep one row of numbers; it has a `step`."""
        ...

    def advance(self, step: int, *, loss: float, step_time_s: float, tokens_per_s: float) -> None:
        """Show that `step` is done."""
        ...

    def note(self, text: str) -> None:
        """Show a line."""
        ...


class FirstRankReports:
    """`metrics.jsonl`, TensorBoard and the progress bar."""

    def __init__(self, metrics: MetricsLog, progress: TrainingProgress) -> None:
        self._metrics = metrics
        self._progress = progress

    def write(self, row: Row) -> None:
        """Append the row."""
        self._metrics.write(row)

    def advance(self, step: int, *, loss: float, step_time_s: float, tokens_per_s: float) -> None:
        """Move the bar."""
        self._progress.advance(step, loss=loss, step_time_s=step_time_s, tokens_per_s=tokens_per_s)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.note(text)


class NoReports:
    """Nothing: the first rank tells it."""

    def write(self, row: Row) -> None:
        """Do nothing."""

    def advance(self, step: int, *, loss: float, step_time_s: float, tokens_per_s: float) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""
