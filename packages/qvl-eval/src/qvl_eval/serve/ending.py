"""The end of the server by SIGTERM or Ctrl-C: the first drains, a second ends at once."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import uvicorn

# A launcher and the process group may both pass a signal on: two that come together are one.
_SAME_SIGNAL_S = 1.0


class Ending:
    """Whether the server was told to end. May be told before there is one."""

    def __init__(self) -> None:
        self._told_at: float | None = None
        self._is_now = False
        self._server: uvicorn.Server | None = None

    def ends(self, server: uvicorn.Server) -> None:
        """Say which server it is that ends."""
        self._server = server
        self._pass_on()

    def tell(self) -> None:
        """Do what a signal does."""
        now = time.monotonic()
        if self._told_at is None:
            self._told_at = now
        elif now - self._told_at > _SAME_SIGNAL_S:
            self._is_now = True
        self._pass_on()

    @contextlib.contextmanager
    def by_signals(self) -> Iterator[None]:
        """Be told by SIGTERM and SIGINT meanwhile, in the main thread; others get no signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {one: signal.signal(one, self._signalled) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self.tell()

    def _pass_on(self) -> None:
        if self._server is not None and self._told_at is not None:
            self._server.should_exit = True
            self._server.force_exit = self._is_now
