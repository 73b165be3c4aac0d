"""Progress of long byte work, on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

# Between two lines in a log.
SECONDS_PER_LINE = 15.0
GB = 1e9


@contextmanager
def byte_progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Give a function, for any thread, that is told how many more bytes are done."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(what, total).advance
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


def gigabytes(count: float) -> str:
    """Give bytes for people: `4.45 GB`, or MB and kB where that says more."""
    for unit, size in (("GB", GB), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.2f} {unit}"
    return f"{count:.0f} bytes"


def duration(seconds: float) -> str:
    """Give a time for people: `1 h 05 min`, `3 min 20 s`, `4.2 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def counted(number: int, what: str) -> str:
    """Give a count for people: `1 file`, `2,000 files`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


class _Lines:
    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._done = 0
        self._start = self._last = time.monotonic()
        self._lock = threading.Lock()

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._last < SECONDS_PER_LINE:
                return
            self._last = now
            speed = self._done / (now - self._start)
            left = max(0.0, self._total - self._done) / speed
        typer.echo(
            f"{self._what}: {gigabytes(self._done)} of {gigabytes(self._total)} "
            f"({self._done / max(1, self._total):.0%}), {speed / GB:.2f} GB/s, {duration(left)} left",
            err=True,
        )
