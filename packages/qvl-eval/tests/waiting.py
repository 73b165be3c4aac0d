"""Waiting for something to become so."""

from __future__ import annotations

import threading
from collections.abc import Callable

from running_server import WAIT_S


def in_time(condition: Callable[[], bool]) -> bool:
    """Wait until something is so, and give whether it came to be."""
    pause = threading.Event()
    return any(condition() or pause.wait(0.02) for _ in range(int(WAIT_S / 0.02)))
