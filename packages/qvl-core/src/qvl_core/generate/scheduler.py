"""Continuous batching: requests join and leave the batch at any step.

A step advances every active request by one token: those that have answers under way in one decoding pass, then those
that found a free slot in one pass over their prompts. What a request is answered does not depend on the others: every
prompt is attended for itself, every slot has a cache of its own, every request its own random numbers.

Memory is promised on admission: a request starts when the slots in use, itself included, times the longest that one of
them may become fit in `max_tokens`; so no request is ever thrown out half way. Requests start in the order of arrival.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qvl_core.answer_sizes import PREFILL_TOKENS, blocks
from qvl_core.errors import InputError, Problem, RunError
from qvl_core.generate.engine import Engine
from qvl_core.generate.prompts import next_positions
from qvl_core.generate.request import NO_TOKEN, Event, Finished, Request, ScoresError
from qvl_core.generate.sampling import choose_token, row_generator
from qvl_core.model.qwen25vl import Qwen25VL

# Stands for a token where scores are NaN or infinite, so that all ranks hear of it.
_NOT_FINITE = -2


class Scheduler:
    """The requests of one model. Not thread-safe: one thread owns it.

    After an error inside `step` it is of no use any more, for the cache may hold half a step: it refuses further calls.
    The model and new schedulers of it are not concerned.
    """

    def __init__(
        self,
        model: Qwen25VL,
        *,
        slots: int,
        max_tokens: int,
        prefill_tokens: int = PREFILL_TOKENS,
        engine: Engine | None = None,
    ) -> None:
        """Hold at most `slots` requests at a time, in a cache of at most `max_tokens` tokens (rounded to blocks).

        Prompts that are run in one pass have at most `prefill_tokens` tokens together; a longer one is run alone.
        A model that is one rank's part comes with an `engine` that knows the others, of the same bounds: then every
        rank of its replica has a scheduler, and all make the same calls.
        """
        assert slots >= 1, f"{slots} slots"
        self._spec = model.spec
        self._window = model.spec.text.max_position_embeddings
        self._engine = engine or Engine(model, slots, blocks(max_tokens))
        self._slots = slots
        self._prefill_tokens = prefill_tokens
        self._max_tokens = blocks(max_tokens)
        self._waiting: deque[_Answer] = deque()
        self._active: list[_Answer] = []
        self._cancelled: list[_Answer] = []
        self._ids: set[str] = set()
        self._failure: str | None = None

    @property
    def active(self) -> int:
        """Count the requests that hold a slot."""
        return len(self._active)

    @property
    def waiting(self) -> int:
        """Count the requests that have none yet."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Tell whether a step would do nothing."""
        return not (self._active or self._waiting or self._cancelled)

    @property
    def tokens_held(self) -> int:
        """Count the tokens of prompts and answers that are in the cache."""
        return sum(answer.cached for answer in self._active)

    def check(self, request: Request) -> Problem | None:
        """Say why a request can never run: its prompt fills the window, or it needs more than the cache has."""
        tokens, new = request.prompt.tokens, request.options.max_new_tokens
        if tokens >= self._window:
            return _too_long(request, f"the model's window has {self._window} and the answer needs some of it")
        if blocks(min(tokens + new, self._window)) > self._max_tokens:
            reason = f"with up to {new} new ones they do not fit in a cache of {self._max_tokens}"
            return _too_long(request, reason, "allow fewer new tokens, or give the cache more room")
        return None

    def submit(self, request: Request) -> None:
        """Put a request at the end of the queue. Raises InputError if it can never run, or its id is in use."""
        assert len(request.prompt.sequence_lengths) == 1, f"{len(request.prompt.sequence_lengths)} samples in a request"
        self._require_sound()
        problem = self.check(request)
        if problem is None and request.request_id in self._ids:
            message = "another request of this id has not ended"
            problem = Problem(where=f"request {request.request_id}", key="request_id", message=message)
        if problem is not None:
            raise InputError(problem)
        self._ids.add(request.request_id)
        self._waiting.append(_Answer(request, next_positions(request.prompt, self._spec.position_rule), self._window))

    def cancel(self, request_id: str) -> None:
        """Take a request out, waiting or active; the next step says so. An unknown or ended one is ignored."""
        for answer in [one for one in (*self._waiting, *self._active) if one.request.request_id == request_id]:
            if answer in self._waiting:
                self._waiting.remove(answer)
            else:
                self._release(answer)
            self._cancelled.append(answer)
            self._ids.discard(request_id)

    def step(self) -> list[Event]:
        """Advance every active request by a token and start those that there is room for.

        Raises ScoresError on every rank if scores are NaN or infinite, RunError if an earlier step failed.
        """
        self._require_sound()
        try:
            return self._advance()
        except BaseException as error:
            self._failure = f"{type(error).__name__}: {error}".splitlines()[0]
            raise

    def _require_sound(self) -> None:
        if self._failure is not None:
            raise RunError(f"an earlier step failed ({self._failure})\n  fix: make a new scheduler")

    def _advance(self) -> list[Event]:
        events = [answer.cancelled() for answer in self._cancelled]
        self._cancelled = []
        if self._active:
            tokens_B = np.array([answer.last for answer in self._active], np.int32)
            positions_3B = np.stack([answer.position for answer in self._active], axis=1)
            events += self._take(self._active, self._engine.decode(tokens_B, positions_3B))
        started = self._admitted()
        if started:
            slots = range(len(self._active), len(self._active) + len(started))
            scores = self._engine.prefill([answer.request.prompt for answer in started], slots)
            for _ in started:
                self._waiting.popleft().forget_media()
            self._active += started
            events += self._take(started, scores)
        return events

    def _admitted(self) -> list[_Answer]:
        """Give the first waiting requests that there is room for."""
        found: list[_Answer] = []
        longest = max((answer.most_cached for answer in self._active), default=0)
        tokens = 0
        for answer in self._waiting:
            count = len(self._active) + len(found) + 1
            longest = max(longest, answer.most_cached)
            tokens += answer.tokens
            if (
                count > self._slots
                or count * blocks(longest) > self._max_tokens
                or (found and tokens > self._prefill_tokens)
            ):
                break
            found.append(answer)
        return found

    def _take(self, answers: Sequence[_Answer], scores_BV: NDArray[np.float32] | None) -> list[Event]:
        """Choose the next token of these active requests; those that end give their slots back."""
        tokens_B = np.zeros(len(answers), np.int32)
        if scores_BV is not None:
            tokens_B[:] = [answer.choose(scores_V) for answer, scores_V in zip(answers, scores_BV, strict=True)]
        tokens_B = self._engine.agree(tokens_B)
        for answer, token in zip(answers, tokens_B, strict=True):
            if token == _NOT_FINITE:
                name, place = answer.request.request_id, answer.new_tokens
                text = f"request {name}: the scores of new token {place} are NaN or infinite; look at the weights"
                raise ScoresError(text)
        events = [answer.add(int(token)) for answer, token in zip(answers, tokens_B, strict=True)]
        for answer, event in zip(tuple(answers), events, strict=True):
            if event.finished:
                self._ids.discard(event.request_id)
                self._release(answer)
        return events

    def _release(self, answer: _Answer) -> None:
        """Free a slot: the last one in use takes its place."""
        slot, last = self._active.index(answer), len(self._active) - 1
        self._engine.release(slot, last)
        self._active[slot] = self._active[last]
        self._active.pop()


class _Answer:
    """A request and what there is of its answer."""

    def __init__(self, request: Request, position_3: NDArray[np.int32], window: int) -> None:
        self.request = request
        self.tokens = request.prompt.tokens
        self._most_new = min(request.options.max_new_tokens, window - self.tokens)
        self._ids = np.empty(self.tokens + self._most_new, np.int32)
        self._ids[: self.tokens] = request.prompt.input_ids
        self._new = 0
        self._first_position_3 = position_3
        self._generator = row_generator(request.options.seed, request.row)

    def forget_media(self) -> None:
        """Let go of the patches, which have been read: those of a large picture are tens of MB."""
        patches, grids = self.request.prompt.patches[:0], self.request.prompt.grids[:0]
        self.request = replace(self.request, prompt=replace(self.request.prompt, patches=patches, grids=grids))

    @property
    def last(self) -> int:
        """Give the newest token, which is not in the cache yet."""
        return int(self._ids[self.tokens + self._new - 1])

    @property
    def new_tokens(self) -> int:
        """Count the tokens of the answer."""
        return self._new

    @property
    def position(self) -> NDArray[np.int32]:
        """Give the positions [3] of the newest token."""
        return self._first_position_3 + (self._new - 1)

    @property
    def cached(self) -> int:
        """Count its tokens in the cache."""
        return self.tokens + max(self._new - 1, 0)

    @property
    def most_cached(self) -> int:
        """Count the tokens that the cache will have to hold of it."""
        return len(self._ids)

    def choose(self, scores_V: NDArray[np.float32]) -> int:
        """Give the next token, or _NOT_FINITE."""
        if not np.isfinite(scores_V.max()):
            return _NOT_FINITE
        seen = self._ids[: self.tokens + self._new]
        return choose_token(scores_V, seen, self.request.options, self._generator, new_tokens=self._new)

    def add(self, token: int) -> Event:
        """Take the next token over."""
        self._ids[self.tokens + self._new] = token
        self._new += 1
        finished: Finished | None = None
        if token in self.request.options.stop_ids:
            finished = "stop"
        elif self._new == self._most_new:
            finished = "length"
        return Event(request_id=self.request.request_id, token=token, text_index=self._new - 1, finished=finished)

    def cancelled(self) -> Event:
        """Give the event of a request that was taken out."""
        return Event(request_id=self.request.request_id, token=NO_TOKEN, text_index=self._new, finished="cancelled")


def _too_long(
    request: Request, reason: str, fix: str = "shorten the prompt, or use fewer or smaller images"
) -> Problem:
    message = f"has {request.prompt.tokens} tokens, those of images included; {reason}"
    return Problem(where=f"request {request.request_id}", key="prompt", message=message, fix=fix)
