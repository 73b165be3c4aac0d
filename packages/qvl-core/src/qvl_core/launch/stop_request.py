"""Signals as a request to stop: the first request is passed on to the workers, the second one ends them."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType

# Ctrl-C; a scheduler that takes the machine away; SLURM's warning before that, `--signal=USR1@120`.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# One request may reach a process more than once: from the scheduler, a wrapper around the command, and the launcher.
SAME_REQUEST_S = 2.0
# What the launcher passes on to a rank may come so much later than what a scheduler has sent to all processes: on a
# busy machine it may be the last to run. At a second request it ends the ranks whatever these do.
PASSED_ON_S = 30.0


def is_repeated(number: int, asked_at: float, *, by_hand: bool = True) -> bool:
    """Tell whether a signal repeats the request of `asked_at` (monotonic s) instead of being a second one.

    Where it may have come by hand, Ctrl-C never does: who presses it twice wants to leave. Where not, it is a rank's.
    """
    passed_s = time.monotonic() - asked_at
    return passed_s <= PASSED_ON_S if not by_hand else number != signal.SIGINT and passed_s <= SAME_REQUEST_S


class StopRequest:
    """Within the `with` block, `number` is the first signal that came, None as long as none did.

    A second request raises KeyboardInterrupt. Outside the main thread, where signals cannot be handled, nothing comes.
    """

    def __init__(self) -> None:
        self.number: signal.Signals | None = None
        self.asked_at = 0.0
        self._deaf = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def ignore(self) -> None:
        """Take no more signals: what follows ends all processes, and must not be cut short."""
        self._deaf = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._deaf:
            return
        if self.number is None:
            self.number, self.asked_at = signal.Signals(number), time.monotonic()
        elif not is_repeated(number, self.asked_at):
            raise KeyboardInterrupt
