"""Jobs through a scheduler, one thread: tokens become text, stop strings end answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qvl_eval.answers.job import Finish, Job, Piece, Scheduler
from qvl_eval.answers.text_stream import TextStream

if TYPE_CHECKING:
    from qvl_eval.answers.opening import AnsweringModel

Decode = Callable[[Sequence[int]], str]


@dataclass(eq=False)
class _Growing:
    stream: TextStream
    new_tokens: int = 0


class Driver:
    """Advances all jobs by a token a step. Not thread-safe: one thread owns it, as it does the scheduler."""

    def __init__(self, scheduler: Scheduler, decode: Decode) -> None:
        self.scheduler = scheduler
        self._decode = decode
        self._growing: dict[str, _Growing] = {}

    def submit(self, job: Job) -> None:
        """Add a job. Raises InputError if it can never fit."""
        self.scheduler.submit(_request(job))
        self._growing[job.job_id] = _Growing(TextStream(self._decode, job.stops))

    def cancel(self, job_id: str) -> None:
        """Forget a job: nothing more comes of it, and its slot is free before the next step."""
        if self._growing.pop(job_id, None) is not None:
            self.scheduler.cancel(job_id)

    @property
    def jobs(self) -> tuple[str, ...]:
        """Name the jobs that have not ended."""
        return tuple(self._growing)

    def step(self) -> list[Piece]:
        """Advance every job by a token and give the new text, also where it is empty."""
        pieces = []
        for event in self.scheduler.step():
            growing = self._growing.get(event.request_id)
            # What a cancelled job has still left says nothing to anybody.
            if growing is not None:
                pieces.append(self._piece(growing, event))
        return pieces

    def _piece(self, growing: _Growing, event: Any) -> Piece:
        finish: Finish | None = event.finished
        growing.new_tokens += finish != "cancelled"
        # A stop token ends the text; it is no part of it.
        text = growing.stream.push(event.token) if finish in (None, "length") else ""
        if growing.stream.is_stopped:
            if finish is None:
                self.scheduler.cancel(event.request_id)
            finish = "stop"
        if finish is not None:
            text += growing.stream.finish()
            del self._growing[event.request_id]
        return Piece(job_id=event.request_id, text=text, new_tokens=growing.new_tokens, finish=finish)


def answer_all(driver: Driver, jobs: Iterable[Job], *, ahead: int) -> Iterator[Piece]:
    """Give the pieces of all answers as they come, never more than `ahead` jobs in the scheduler at a time.

    A job that can never fit gives one failed piece; the others go on.
    """
    from qvl_core.errors import InputError

    left = iter(jobs)
    is_more = True
    while is_more or driver.jobs:
        while is_more and len(driver.jobs) < ahead:
            job = next(left, None)
            if job is None:
                is_more = False
                break
            try:
                driver.submit(job)
            except InputError as error:
                yield Piece(job_id=job.job_id, text="", new_tokens=0, finish="failed", failure=str(error))
        yield from driver.step() if driver.jobs else ()


def window_of(loaded: AnsweringModel) -> int:
    """Give how many tokens prompt and answer may have together."""
    return int(loaded.processor.spec.text.max_position_embeddings)


def make_driver(loaded: AnsweringModel, *, slots: int, max_tokens: int) -> Driver:
    """Make a driver over a new scheduler of the model; bounds are those of each replica."""
    return Driver(loaded.scheduler(slots=slots, max_tokens=max_tokens), loaded.processor.chat.decode)


def _request(job: Job) -> Any:
    from qvl_core.generate.request import Request

    return Request(prompt=job.prompt, options=job.options, request_id=job.job_id)
