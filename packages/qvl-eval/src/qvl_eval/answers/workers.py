"""The processes that hold a model of several ranks, as the process that asks sees them.

A thread of this process starts and watches them, as `qvl run` does for training; so signals stay with the front end:
Ctrl-C stops an answer in a chat, SIGTERM drains a server, and the workers hear of the end from here.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType

from qvl_core.errors import RunError
from qvl_core.launch.link import Door, Link, Message
from qvl_core.tasks import StartWorkers

# For the step that they are in, and their farewell.
LEAVE_S = 15.0
# The launcher ends what does not end by itself within a few seconds.
END_S = 30.0


class Workers:
    """A context manager: within it, the workers are there and have read their weights.

    Leaving it ends them. Whatever ends them before is raised by `receive`, and by leaving: the launcher's error with
    the rank that failed first.
    """

    def __init__(self, start: StartWorkers) -> None:
        self._start = start
        self._door = Door()
        self._stop = threading.Event()
        self._came: queue.Queue[Message | None] = queue.Queue()
        self._link: Link | None = None
        self._error: BaseException | None = None
        self._on_end: Callable[[], None] = lambda: None
        self._watching = threading.Thread(target=self._watch, name="workers", daemon=True)
        self._listening = threading.Thread(target=self._listen, name="answers", daemon=True)

    def __enter__(self) -> Workers:
        self._door.__enter__()
        try:
            self._watching.start()
            self._listening.start()
            self.receive()
        except BaseException:
            self._end(in_order=False)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed = self._error is not None
        self._end(in_order=True)
        if kind is None and failed:
            raise self._failure()

    def when_ended(self, call: Callable[[], None]) -> None:
        """Have this called, in another thread, when the workers have ended; at once where they have."""
        self._on_end = call
        if not self._watching.is_alive():
            call()

    def send(self, message: Message) -> None:
        """Tell the first rank something. Raises the workers' error where they have ended."""
        try:
            assert self._link is not None, "`receive` has given its first word"
            self._link.send(message)
        except OSError:
            raise self._failure() from None

    def receive(self) -> Message:
        """Wait for the next word of the first rank. Raises the workers' error where they have ended."""
        message = self._came.get()
        if message is None:
            # For whoever asks next.
            self._came.put(None)
            raise self._failure()
        return message

    def _watch(self) -> None:
        try:
            self._start(variables=self._door.variables, stop=self._stop, shown=False)
        except BaseException as error:  # whatever it is, it is raised where somebody waits for the workers
            self._error = error
        finally:
            self._stop.set()
            self._came.put(None)
            self._on_end()

    def _listen(self) -> None:
        self._link = self._door.accept(lambda: not self._stop.is_set())
        if self._link is None:
            return
        while (message := self._link.receive()) is not None:
            self._came.put(message)
        # Its process is gone, or going: the launcher says why.
        self._came.put(None)

    def _failure(self) -> BaseException:
        """Wait for what the launcher says of the end, and give it."""
        self._watching.join(END_S)
        return self._error or RunError("the workers have ended")

    def _end(self, *, in_order: bool) -> None:
        """End the workers: by hanging up, and after a while, or where they are not ready yet, by force."""
        try:
            if self._link is not None:
                # Also right where an interrupt has cut a message short: nothing of it is taken for a command.
                self._link.close()
                if in_order:
                    self._watching.join(LEAVE_S)
        finally:
            self._stop.set()
            self._watching.join(END_S)
            self._listening.join(END_S)
            self._door.__exit__(None, None, None)
