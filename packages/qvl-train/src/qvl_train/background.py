"""A piece of work of one rank in the background: its result or its error, once it has ended."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from qvl_core.errors import RunError

if TYPE_CHECKING:
    from qvl_core.parallel.world import Json


class AbandonedError(RunError):
    """The work is not wanted any more: the run ends with another error."""


class Work:
    """Runs `work` in a thread of its own, or, `in_line`, at once in the caller's.

    `work` gets a function to call now and then, which raises AbandonedError after `abandon`. It must not talk to other
    ranks: the training loop does, at the same time.
    """

    def __init__(self, work: Callable[[Callable[[], None]], dict[str, Json]], *, in_line: bool) -> None:
        self._work = work
        self._unwanted = threading.Event()
        self.result: dict[str, Json] = {}
        self.error: Exception | None = None
        self._thread: threading.Thread | None = None
        if in_line:
            self._run()
        else:
            # A daemon: a process that ends by an error does not wait for a disk, and half a checkpoint is no harm.
            self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
            self._thread.start()

    @property
    def has_ended(self) -> bool:
        """Whether `result` or `error` is there."""
        return self._thread is None or not self._thread.is_alive()

    def wait(self, limit_s: float | None = None) -> None:
        """Wait for the end, for ever or for so long."""
        if self._thread is not None:
            self._thread.join(limit_s)

    def abandon(self) -> None:
        """Ask the work to stop, and wait until it has."""
        self._unwanted.set()
        self.wait()

    def _run(self) -> None:
        try:
            self.result = self._work(self._require_wanted)
        except Exception as error:  # the ranks hear of it in their next exchange
            self.error = error

    def _require_wanted(self) -> None:
        if self._unwanted.is_set():
            raise AbandonedError("this checkpoint is not wanted any more")
