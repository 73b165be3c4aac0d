"""Progress of long work over records and media, on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

Progress = Callable[[str, int, int], None]
# Between two lines in a log.
SECONDS_PER_LINE = 15.0


@contextmanager
def progress_on_stderr() -> Iterator[Progress]:
    """Give a function that is told what is being done, how much of it is done, and how much there is (0: unknown)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines().show
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("reading", total=None)
        yield lambda what, done, total: progress.update(task, description=what, completed=done, total=total or None)


class _Lines:
    def __init__(self) -> None:
        self._last = time.monotonic()

    def show(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last >= SECONDS_PER_LINE:
            self._last = now
            typer.echo(f"{what}: {done:,} of {total:,}" if total else f"{what}: {done:,}", err=True)
