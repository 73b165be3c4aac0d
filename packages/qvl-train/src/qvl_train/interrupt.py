"""Signals as a request to finish the step, save and leave; a second request leaves at once."""

from __future__ import annotations

import signal
import time
from types import FrameType, TracebackType

from qvl_core.launch.stop_request import STOP_SIGNALS, is_repeated


class Interrupt:
    """Within the `with` block, `signal_name` tells which signal asked the run to stop, None as long as none did.

    A run that is alone takes the signals that the launcher takes of one in several processes. A rank of several gets
    them from the launcher, and perhaps from the scheduler too: within a moment, that is one request.
    """

    def __init__(self, *, is_alone: bool) -> None:
        self.signal_name: str | None = None
        self._is_alone = is_alone
        self._asked_at = 0.0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        # A rank writes its stacks when the launcher sends it SIGUSR1.
        for number in STOP_SIGNALS if self._is_alone else (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.signal_name is not None and not self._is_alone:
            # The launcher's signal may still be on its way to a rank that the scheduler's has stopped.
            return
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal_name is None:
            self.signal_name, self._asked_at = signal.Signals(number).name, time.monotonic()
        elif not is_repeated(number, self._asked_at, by_hand=self._is_alone):
            raise KeyboardInterrupt
