"""Ctrl-C and SIGTERM as a request to stop: the first one is passed on to the workers, the second one ends them."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType


class StopRequest:
    """Within the `with` block, `number` is the first signal that came, None as long as none did.

    The second raises KeyboardInterrupt. Outside the main thread, where signals cannot be handled, nothing comes.
    """

    def __init__(self) -> None:
        self.number: signal.Signals | None = None
        self.asked_at = 0.0
        self._deaf = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
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
        if self.number is not None:
            raise KeyboardInterrupt
        self.number, self.asked_at = signal.Signals(number), time.monotonic()
