"""Reports on a disk that may be full: the run goes on without them, or learns of it so that all ranks stop together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from qvl_core.errors import DiskError

if TYPE_CHECKING:
    from qvl_train.metrics import Row
    from qvl_train.reports import Reports

LOST_KEY = "metrics_rows_lost"


class GuardedReports:
    """Passes everything on. Where a row cannot be written, `problem` says why, and no more rows are tried.

    With `go_on` it warns instead, once until a row gets through again, and then writes how many were lost.
    """

    def __init__(self, reports: Reports, *, go_on: bool) -> None:
        self._reports = reports
        self._go_on = go_on
        self._lost = 0
        self.problem: str | None = None

    def write(self, row: Row) -> None:
        """Keep one row of numbers, if it can be kept."""
        if self.problem is None:
            self._try(lambda: self._write(row))

    def advance(
        self, step: int, *, loss: float, step_time_s: float, tokens_per_s: float, mfu: float | None = None
    ) -> None:
        """Show that `step` is done."""
        self._reports.advance(step, loss=loss, step_time_s=step_time_s, tokens_per_s=tokens_per_s, mfu=mfu)

    def validating(self, done: int, total: int) -> None:
        """Show how far a validation is."""
        self._reports.validating(done, total)

    def note(self, text: str) -> None:
        """Show a line."""
        self._reports.note(text)

    def keep_answers(self, step: int, lines: str) -> None:
        """Keep the answers of an evaluation, if they can be kept."""
        if self.problem is None:
            self._try(lambda: self._reports.keep_answers(step, lines))

    def keep_memory(self, peak_gib: Sequence[float]) -> None:
        """Keep every rank's largest resident memory, if it can be kept."""
        if self.problem is None:
            self._try(lambda: self._reports.keep_memory(peak_gib))

    def _write(self, row: Row) -> None:
        self._reports.write(row)
        if self._lost:
            # Where this one does not fit, it is told with the next row that gets through.
            with suppress(DiskError):
                self._reports.write({"step": row["step"], LOST_KEY: self._lost})
                self._lost = 0

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except DiskError as error:
            if not self._go_on:
                self.problem = _text(error)
                return
            if not self._lost:
                self._reports.note(f"warning: {error}; numbers are lost until there is room again")
            self._lost += 1


def _text(error: DiskError) -> str:
    return (
        f"{error}\nfix: make room there; the same command goes on from the last checkpoint. "
        'train.save.on_error = "continue" trains on without these numbers'
    )
