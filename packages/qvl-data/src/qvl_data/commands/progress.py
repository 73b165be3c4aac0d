"""Progress of long work on stderr: one line that changes on a terminal, a new line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Between two lines in a log, and between two states of the line on a terminal.
SECONDS_PER_LINE = 15.0
_SECONDS_ON_TERMINAL = 0.2


@contextmanager
def stderr_progress(clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[str, int, int], None]]:
    """Give a function that is told what is being done, how much of it is done, and how much there is (0: unknown)."""
    progress = _Progress(clock)
    try:
        yield progress.tell
    finally:
        progress.close()


class _Progress:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = clock()
        self._is_terminal = sys.stderr.isatty()
        self._is_open = False  # The terminal's cursor stands in our line.

    def tell(self, what: str, done: int, total: int) -> None:
        now = self._clock()
        if now - self._last < (_SECONDS_ON_TERMINAL if self._is_terminal else SECONDS_PER_LINE):
            return
        self._last = now
        text = f"{what}: {done:,} of {total:,} ({done / total:.0%})" if total else f"{what}: {done:,}"
        # On a terminal back to the start of the line, and the rest of it cleared.
        sys.stderr.write(f"\r{text}\x1b[K" if self._is_terminal else f"{text}\n")
        sys.stderr.flush()
        self._is_open = self._is_terminal

    def close(self) -> None:
        if self._is_open:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
