"""The one thread that owns model and scheduler; everybody else hands it jobs and gets pieces back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from qvl_core.errors import InputError, QvlError

from qvl_eval.answers.driver import Driver
from qvl_eval.answers.job import Job, Piece

logger = logging.getLogger(__name__)

Listener: TypeAlias = Callable[[Piece], None]
"""Called in the engine's thread; has to return at once and may not raise."""

# A model that fails this many steps in a row will not recover.
MAX_FAILURES = 3
ENDED = "the engine failed: a process that holds the model has ended"


@dataclass(frozen=True, kw_only=True)
class EngineState:
    """What the engine was doing after its last step. `step_started_s` is on the monotonic clock; 0.0 between steps."""

    active: int = 0
    waiting: int = 0
    tokens_held: int = 0
    step_started_s: float = 0.0
    is_dead: bool = False


class EngineThread:
    """Runs jobs until `stop`. All methods may be called from any thread."""

    def __init__(self, make_driver: Callable[[], Driver]) -> None:
        self._make_driver = make_driver
        self._condition = threading.Condition()
        self._inbox: list[tuple[Job, Listener] | str] = []
        self._listeners: dict[str, Listener] = {}
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.state = EngineState()
        self.error: QvlError | None = None
        """What ended the engine, where it is meant for people."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, job: Job, listener: Listener) -> None:
        """Hand over a job; every piece of its answer goes to the listener, the last one with a `finish`."""
        with self._condition:
            if not (self.state.is_dead or self._is_stopping):
                self._inbox.append((job, listener))
                self._condition.notify()
                return
        listener(_failed(job.job_id, "the engine has stopped"))

    def cancel(self, job_id: str) -> None:
        """Take a job out before the next step; its listener is not called again. Unknown and ended ones are ignored."""
        with self._condition:
            self._inbox.append(job_id)
            self._condition.notify()

    def stop(self, timeout_s: float) -> bool:
        """End the thread after the step it is in; jobs left fail. Gives whether it ended in time."""
        with self._condition:
            self._is_stopping = True
            self._condition.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._loop()
        except QvlError as error:
            # The end of the processes that hold the model, as their launcher tells it: no new scheduler could mend it.
            self.error = error
            self._fail_all(ENDED)
        except Exception:
            logger.exception("the engine's thread failed")
        finally:
            self._die()

    def _loop(self) -> None:
        failures = 0
        driver = self._make_driver()
        while (commands := self._commands(is_idle=not driver.jobs)) is not None:
            self._take(driver, commands)
            self._note(driver, started=time.monotonic())
            try:
                pieces = driver.step() if driver.jobs else []
                failures = 0 if pieces else failures
            except QvlError:
                raise
            except Exception as error:
                logger.exception("the engine failed")
                failures += 1
                self._fail_all(f"the engine failed: {type(error).__name__}")
                pieces, driver = [], self._make_driver()
            for piece in pieces:
                if not self._deliver(piece):
                    driver.cancel(piece.job_id)
            self._note(driver)
            if failures >= MAX_FAILURES:
                return

    def _commands(self, *, is_idle: bool) -> list[tuple[Job, Listener] | str] | None:
        """Wait for something to do, and give it; None when the thread is to end."""
        with self._condition:
            while is_idle and not self._inbox and not self._is_stopping:
                self._condition.wait()
            if self._is_stopping:
                return None
            commands, self._inbox = self._inbox, []
            return commands

    def _take(self, driver: Driver, commands: list[tuple[Job, Listener] | str]) -> None:
        for command in commands:
            if isinstance(command, str):
                self._listeners.pop(command, None)
                driver.cancel(command)
                continue
            job, listener = command
            self._listeners[job.job_id] = listener
            try:
                driver.submit(job)
            except InputError as error:
                self._deliver(_failed(job.job_id, str(error)))
            except QvlError:
                self._deliver(_failed(job.job_id, ENDED))
                raise
            except Exception as error:
                self._deliver(_failed(job.job_id, str(error)))

    def _deliver(self, piece: Piece) -> bool:
        """Hand a piece to its listener, and give whether more are wanted."""
        listener = self._listeners.get(piece.job_id)
        if piece.finish is not None:
            self._listeners.pop(piece.job_id, None)
        if listener is None:
            return False
        try:
            listener(piece)
        except Exception:  # Whoever waited is gone, event loop and all: its work has no reader.
            logger.debug("nobody takes the answer to %s", piece.job_id)
            self._listeners.pop(piece.job_id, None)
            return False
        return True

    def _fail_all(self, reason: str) -> None:
        for job_id in tuple(self._listeners):
            self._deliver(_failed(job_id, reason))

    def _die(self) -> None:
        with self._condition:
            self.state = EngineState(is_dead=True)
            commands, self._inbox = self._inbox, []
        self._listeners.update({job.job_id: listener for job, listener in _jobs(commands)})
        self._fail_all("the engine has stopped")

    def _note(self, driver: Driver, started: float = 0.0) -> None:
        scheduler = driver.scheduler
        self.state = EngineState(
            active=scheduler.active,
            waiting=scheduler.waiting,
            tokens_held=scheduler.tokens_held,
            step_started_s=started,
        )


def _jobs(commands: list[tuple[Job, Listener] | str]) -> list[tuple[Job, Listener]]:
    return [command for command in commands if not isinstance(command, str)]


def _failed(job_id: str, failure: str) -> Piece:
    return Piece(job_id=job_id, text="", new_tokens=0, finish="failed", failure=failure)
