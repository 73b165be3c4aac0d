"""Ends a rank that makes no progress, with the stacks of its threads: what the engine marks on its board is progress.

Not a limit on the time of a case: on a busy machine a sound case takes as long as it takes.
"""

from __future__ import annotations

import faulthandler
import os
import time
from pathlib import Path

# Setting the alarm anew starts a thread, too dear for each of the engine's calls.
_RENEWAL_S = 1.0


class Watchdog:
    """A board (`qvl_core.parallel.world.Board`) that waits at most `limit_s` from one mark to the next.

    `sign` is a file whose time of change says when progress was last seen.
    """

    def __init__(self, limit_s: float, sign: Path) -> None:
        self._limit_s = limit_s
        self._sign = sign
        self._renewed = 0.0

    def mark(self, state: str, *, waiting: bool) -> None:
        """Note progress."""
        now = time.monotonic()
        if now - self._renewed >= _RENEWAL_S:
            self._renewed = now
            os.utime(self._sign)
            faulthandler.dump_traceback_later(self._limit_s, exit=True)

    def start(self) -> None:
        """Begin to watch."""
        self._renewed = 0.0
        self.mark("start", waiting=False)

    def stop(self) -> None:
        """Watch no more."""
        faulthandler.cancel_dump_traceback_later()
