"""What a person sees while the model trains: a bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

BLOCKS = "▁▂▃▄▅▆▇█"
LINES_IN_A_LOG = 25
SMOOTHED = 50
REDRAW_S = 0.5


class TrainingProgress:
    """Show step, loss, step time, tokens per second and time left. Use it as a context manager.

    Rates are means over the last 50 steps; a line takes less than 100 columns.
    """

    def __init__(self, console: Console, *, first_step: int, steps: int) -> None:
        self._console = console
        self._steps = steps
        self._every = max(1, (steps - first_step) // LINES_IN_A_LOG)
        self._recent: deque[tuple[float, float, float]] = deque(maxlen=SMOOTHED)  # seconds; times tokens/s, times MFU
        self._numbers = ""
        self._drawn = 0.0
        self._task: TaskID | None = None
        self._bar = Progress(
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=console,
            disable=not console.is_terminal,
            # Drawn when something moves: a thread that draws ten times a second takes some per cent of a small step.
            auto_refresh=False,
        )
        if console.is_terminal:
            self._task = self._bar.add_task("training", total=steps, completed=first_step, numbers="")

    def advance(
        self, step: int, *, loss: float, step_time_s: float, tokens_per_s: float, mfu: float | None = None
    ) -> None:
        """Show that `step` is done."""
        self._recent.append((step_time_s, step_time_s * tokens_per_s, step_time_s * (mfu or 0.0)))
        seconds, tokens, used = (sum(column) for column in zip(*self._recent, strict=True))
        mean_s = seconds / len(self._recent)
        rate = f"{tokens / max(1e-9, seconds):,.0f} tokens/s"
        share = "" if mfu is None else f"{used / max(1e-9, seconds):.1%} MFU  "
        left = format_duration((self._steps - step) * mean_s)
        self._numbers = f"loss {loss:.4f}  {mean_s:.2f} s/step  {rate}  {share}{left} left"
        if self._task is not None:
            self._bar.update(self._task, completed=step, numbers=self._numbers)
            self._draw(is_last=step == self._steps)
        elif step % self._every == 0 or step == self._steps:
            self.note(f"step {step}/{self._steps}  {self._numbers}")

    def validating(self, done: int, total: int) -> None:
        """Show how far a validation is; in a log its result is enough."""
        if self._task is not None:
            numbers = f"validation {done}/{total}" if done < total else self._numbers
            self._bar.update(self._task, numbers=numbers)
            self._draw(is_last=done == total)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def _draw(self, *, is_last: bool) -> None:
        now = time.monotonic()
        if is_last or now - self._drawn >= REDRAW_S:
            self._bar.refresh()
            self._drawn = now

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


def format_duration(seconds: float) -> str:
    """Give seconds as `h:mm:ss`, or `m:ss` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Draw a curve in one line of block characters, each the mean of an equal part of the values."""
    if not values:
        return ""
    width = min(width, len(values))
    edges = [round(i * len(values) / width) for i in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(BLOCKS[min(len(BLOCKS) - 1, int((mean - low) / span * len(BLOCKS)))] for mean in means)
