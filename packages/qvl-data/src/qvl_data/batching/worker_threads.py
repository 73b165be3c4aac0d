"""Threads that work ahead and can be left behind: one that hangs stops neither the run's end nor Ctrl-C.

Those of concurrent.futures are joined when the interpreter ends, so one endless read would keep a failed run alive.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from traceback import walk_stack
from types import TracebackType
from typing import Generic, TypeVar

from qvl_core.errors import RunError

T = TypeVar("T")
_LOOK_S = 1.0  # Between two looks at whether a thread is still alive.
_PATIENCE_S = 1.0  # How long a thread may take to end what it is in the middle of.
_PACKAGE = Path(__file__).parents[1]


class Watch:
    """What a piece of work is doing, and since when; the work says so itself."""

    def __init__(self) -> None:
        self.what = "nothing yet"
        self.started_s: float | None = None
        self.thread: threading.Thread | None = None

    def begin(self, what: str) -> None:
        """Say what is begun, such as the file and line of a sample; the clock starts anew."""
        self.what, self.started_s = what, time.monotonic()


class Task(Generic[T]):
    """A piece of work given to a thread."""

    def __init__(self, work: Callable[[Watch], T]) -> None:
        self._work = work
        self._watch = Watch()
        self._done = threading.Event()
        self._value: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        """Do the work in this thread."""
        self._watch.thread = threading.current_thread()
        self._watch.begin("work")
        try:
            self._value.append(self._work(self._watch))
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()

    def result(self, timeout_s: float) -> T:
        """Wait for the result, or raise what the work raised.

        RunError if what was begun takes longer than `timeout_s` seconds, or if its thread has died: both say what it
        was. Time in the queue does not count.
        """
        while not self._done.wait(self._patience(timeout_s)):
            thread, started = self._watch.thread, self._watch.started_s
            if thread is None or started is None:
                continue
            took = time.monotonic() - started
            if took >= timeout_s:
                raise RunError(
                    f"{self._watch.what}: not done after {took:.1f} s, the limit is {timeout_s:g} s; "
                    f"it hangs {_place(thread)}\nfix: look at that file, or raise data.sample_timeout_s"
                )
            if not thread.is_alive() and not self._done.is_set():
                raise RunError(f"{self._watch.what}: the data worker {thread.name} died while it made this sample")
        if self._error is not None:
            if isinstance(self._error, Exception):
                raise self._error
            # SystemExit or the like, from a library: it must not end the run without a word.
            kind = type(self._error).__name__
            raise RunError(f"{self._watch.what}: the data worker died of {kind}: {self._error}") from self._error
        return self._value[0]

    def _patience(self, timeout_s: float) -> float:
        started = self._watch.started_s
        left = timeout_s if started is None else started + timeout_s - time.monotonic()
        return min(_LOOK_S, max(0.01, left))


class WorkerThreads:
    """A number of daemon threads that do tasks in the order in which they are given. Use it in a `with` block."""

    def __init__(self, count: int, *, name: str) -> None:
        self._queue: SimpleQueue[Task[object] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[Watch], T]) -> Task[T]:
        """Give work; it is called in a thread with the watch to say on what it is doing."""
        task = Task(work)
        self._queue.put(task)  # type: ignore[arg-type]
        return task

    def close(self) -> None:
        """Drop what is not begun and let the threads end; one that does not within a second is left behind."""
        while True:
            try:
                self._queue.get_nowait()
            except Empty:
                break
        for _ in self._threads:
            self._queue.put(None)
        deadline = time.monotonic() + _PATIENCE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> WorkerThreads:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            task.run()


def _place(thread: threading.Thread) -> str:
    """Say where a thread is: the innermost function of this package, and what that has called."""
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None:
        return "nowhere: it has just ended"
    stack = [(Path(one.f_code.co_filename), one.f_code.co_name, line) for one, line in walk_stack(frame)]
    inner = stack[0]
    own = next((entry for entry in stack if entry[0].is_relative_to(_PACKAGE)), inner)
    text = f"in {own[1]} ({own[0].name}:{own[2]})"
    return text if own == inner else f"{text}, in {inner[1]} ({inner[0].name}:{inner[2]})"
