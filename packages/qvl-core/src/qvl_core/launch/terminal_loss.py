"""What a run does when its terminal is closed or its connection breaks (SIGHUP): it goes on, and prints to nobody."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType

_STREAMS = (0, 1, 2)


class TerminalLoss:
    """Within the `with` block, SIGHUP ends nothing, and writing to a terminal that is gone is no error.

    Does nothing where SIGHUP is handled or ignored already (nohup), and outside the main thread.
    """

    def __init__(self) -> None:
        self._terminals: tuple[int, ...] = ()
        self._is_set = False

    def __enter__(self) -> TerminalLoss:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            self._terminals = tuple(stream for stream in _STREAMS if os.isatty(stream))
            signal.signal(signal.SIGHUP, self._handle)
            self._is_set = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_set:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        gone = [stream for stream in self._terminals if not os.isatty(stream)]
        if gone:
            nowhere = os.open(os.devnull, os.O_RDWR)
            for stream in gone:
                os.dup2(nowhere, stream)
            os.close(nowhere)
