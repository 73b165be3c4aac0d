"""From a request to pieces of text: a place in the queue, its turn, its media, the engine.

A request that waits is kept as it came; its images are decoded when it is its turn, so that what waits stays small.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from qvl_core.errors import InputError
from qvl_core.generate import GenerationOptions, changed_options

from qvl_eval.answers.engine_thread import EngineThread
from qvl_eval.answers.job import Job, Piece
from qvl_eval.serve.body import RETRY
from qvl_eval.serve.limits import Limits
from qvl_eval.serve.media import MediaRules
from qvl_eval.serve.metrics import Metrics
from qvl_eval.serve.refusal import Refusal, bad_request
from qvl_eval.serve.wire import ChatRequest, parse_request, require_text

T = TypeVar("T")
# Decoding images and tokenising beside the engine; more threads would only take its processor.
_THREADS = 2
# A text of more characters for each token of the window does not fit into it; tokenising it would say so after seconds,
# in which nobody else is served.
_CHARACTERS_A_TOKEN = 8
# Requests beside those in slots that are made ready, so that a slot that falls free finds one.
_READY = 2

MakeJob = Callable[..., Job]


@dataclass(frozen=True, kw_only=True)
class Served:
    """The model behind the server, without its weights: name, window and how a question becomes a job."""

    name: str
    window: int
    options: GenerationOptions
    make_job: MakeJob
    slots: int
    held_tokens: int


@dataclass(kw_only=True, eq=False)
class Place:
    """A request's place among those that are answered or wait."""

    started: float = field(default_factory=time.monotonic)


class Answering:
    """All requests of one event loop."""

    def __init__(
        self, engine: EngineThread, served: Served, limits: Limits, media: MediaRules, metrics: Metrics
    ) -> None:
        self.engine = engine
        self.served = served
        self.limits = limits
        self._media = media
        self._metrics = metrics
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="prepare")
        # Of its own: what is wrong with a request is told while the videos of others are decoded.
        self._parser = ThreadPoolExecutor(1, thread_name_prefix="parse")
        self._most_characters = min(limits.text_characters, _CHARACTERS_A_TOKEN * served.window)
        self._turns = asyncio.Semaphore(served.slots + _READY)
        self.places = 0
        """Requests that are answered or wait."""
        self.cut = 0
        """Requests that the end of the server cut short."""

    @property
    def waiting(self) -> int:
        """Count the requests whose answer has not begun."""
        return max(0, self.places - self.engine.state.active)

    def check_room(self) -> None:
        """Raise Refusal, a 429, where all places are taken, and a 503 where the engine has stopped."""
        if self.engine.state.is_dead:
            raise Refusal(status=503, message="the engine has stopped; see the server's log")
        most = self.served.slots + self.limits.queue
        if self.places >= most:
            text = f"{most} requests are answered or wait; try again"
            raise Refusal(status=429, message=text, code="server_busy", headers=RETRY)

    @contextlib.contextmanager
    def place(self) -> Iterator[Place]:
        """Hold a place. Raises what `check_room` raises."""
        self.check_room()
        self.places += 1
        try:
            yield Place()
        finally:
            self.places -= 1

    async def read(self, data: bytes) -> ChatRequest:
        """Parse and check what needs no media. Raises Refusal."""
        return await self._in_thread(functools.partial(self._parsed, data), self._parser)

    async def pieces(self, request: ChatRequest, place: Place) -> AsyncGenerator[tuple[int, Piece], None]:
        """Give the pieces of the answer as they come, each with the number of the question's tokens.

        Leaving early stops the answer's work. Raises Refusal.
        """
        async with self._turns:
            job = await self._in_thread(functools.partial(self._job, request), self._pool)
            queue: asyncio.Queue[Piece] = asyncio.Queue()
            loop = asyncio.get_running_loop()

            def put(piece: Piece) -> None:
                loop.call_soon_threadsafe(queue.put_nowait, piece)

            self.engine.submit(job, put)
            job_id, prompt_tokens = job.job_id, job.prompt_tokens
            # Its patches are the engine's from here on, for as long as that needs them.
            del job
            new_tokens, before, finish = 0, place.started, "cancelled"
            try:
                while True:
                    piece = await queue.get()
                    now = time.monotonic()
                    if piece.new_tokens > new_tokens:
                        if new_tokens:
                            self._metrics.next_tokens(now - before, piece.new_tokens - new_tokens)
                        else:
                            self._metrics.first_token(now - place.started)
                        new_tokens, before = piece.new_tokens, now
                    finish = piece.finish or finish
                    yield prompt_tokens, piece
                    if piece.finish is not None:
                        return
            finally:
                if finish == "cancelled":
                    self.engine.cancel(job_id)
                self._metrics.answer(
                    finish,
                    seconds=time.monotonic() - place.started,
                    prompt_tokens=prompt_tokens,
                    new_tokens=new_tokens,
                )

    def close(self) -> None:
        """End the threads that prepare."""
        for pool in (self._pool, self._parser):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Callable[[], T], pool: ThreadPoolExecutor) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    def _parsed(self, data: bytes) -> ChatRequest:
        request = parse_request(data, messages=self.limits.messages, values=self.limits.values)
        if request.model != self.served.name:
            text = f"the model {request.model[:80]!a} is not here; this server has {self.served.name}"
            raise Refusal(status=404, message=text, param="model", code="model_not_found")
        require_text(request, limit=self._most_characters)
        self._media.check(request)
        self._check_stops(request)
        self._wanted_tokens(request)
        return request

    def _check_stops(self, request: ChatRequest) -> None:
        stops, most = request.stops, self.limits.stop_characters
        if len(stops) > self.limits.stops or any(not 0 < len(stop) <= most for stop in stops):
            raise bad_request(f"at most {self.limits.stops} stop strings of 1 to {most} characters", "stop")

    def _wanted_tokens(self, request: ChatRequest) -> int | None:
        """Give the number of new tokens that was asked for, None where none was. Raises Refusal."""
        name = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
        wanted: int | None = getattr(request, name)
        most = min(self.limits.new_tokens or self.served.window, self.served.window)
        if wanted is not None and wanted > most:
            raise bad_request(f"is {wanted}; this server gives at most {most} new tokens", name)
        return wanted

    def _job(self, request: ChatRequest) -> Job:
        """Read the media and tokenise. Raises Refusal."""
        wanted = self._wanted_tokens(request)
        try:
            return self.served.make_job(
                self._media.messages(request),
                self._options(request, wanted),
                job_id=uuid.uuid4().hex,
                stops=request.stops,
                where="messages",
                shorten=wanted is None,
            )
        except InputError as error:
            text = self._media.public("; ".join(one.message for one in error.problems))
            raise bad_request(text[:1000], "messages") from None

    def _options(self, request: ChatRequest, wanted: int | None) -> GenerationOptions:
        given = {
            "max_new_tokens": wanted,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k,
            "repetition_penalty": request.repetition_penalty,
            "seed": request.seed,
        }
        changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        if wanted is None and self.limits.new_tokens is not None:
            changes["max_new_tokens"] = min(self.served.options.max_new_tokens, self.limits.new_tokens)
        ours = self.served.options
        if request.temperature is not None:
            changes["do_sample"] = request.temperature > 0
            # Those of a greedy recipe belong to greedy answers; a client that asks for chance means all tokens.
            changes.setdefault("top_k", ours.top_k if ours.samples else 0)
            changes.setdefault("top_p", ours.top_p if ours.samples else 1.0)
        options = changed_options(ours, changes)
        if options.samples and request.seed is None:
            options = changed_options(options, {"seed": secrets.randbelow(2**63)})
        return options
