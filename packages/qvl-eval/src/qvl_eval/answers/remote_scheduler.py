"""The scheduler of a model that other processes hold, with the calls of one that is here.

What is submitted and cancelled travels at once; the workers go on by themselves, and `step` waits for what the next of
their steps gave. One thread owns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qvl_core.errors import InputError, Problem
from qvl_core.launch.link import Message

from qvl_eval.answers.workers import Workers

if TYPE_CHECKING:
    from qvl_core.generate.request import Event, Request


class RemoteScheduler:
    """The requests that are with the workers. `window` is the model's; bounds are those of each replica."""

    def __init__(self, workers: Workers, *, slots: int, max_tokens: int, window: int) -> None:
        self._workers = workers
        self._max_tokens = max_tokens
        self._window = window
        self._under_way: set[str] = set()
        self._active = self._tokens_held = 0
        workers.send(Message(kind="open", fields={"slots": slots, "max_tokens": max_tokens}))

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing is under way."""
        return not self._under_way

    @property
    def active(self) -> int:
        """Count the requests that held a slot after the last step."""
        return min(self._active, len(self._under_way))

    @property
    def waiting(self) -> int:
        """Count the others."""
        return len(self._under_way) - self.active

    @property
    def tokens_held(self) -> int:
        """Count the tokens that were in the caches after the last step."""
        return self._tokens_held if self._under_way else 0

    def submit(self, request: Request) -> None:
        """Send a request. Raises InputError if it can never run, and the workers' error where they have ended."""
        from qvl_core.generate.packed_request import pack_request

        tokens, new = request.prompt.tokens, request.options.max_new_tokens
        most = min(self._window, self._max_tokens)
        if tokens >= self._window or min(tokens + new, self._window) > self._max_tokens:
            message = f"has {tokens:,} tokens and the answer may have {new:,}; there is room for {most:,}"
            fix = "shorten it, use fewer or smaller images, or ask for a shorter answer"
            raise InputError(Problem(where=f"request {request.request_id}", key="prompt", message=message, fix=fix))
        fields, arrays = pack_request(request)
        self._workers.send(Message(kind="submit", fields=fields, arrays=arrays))
        self._under_way.add(request.request_id)

    def cancel(self, request_id: str) -> None:
        """Take a request out; an unknown or ended one is ignored."""
        if request_id in self._under_way:
            self._workers.send(Message(kind="cancel", fields={"request_id": request_id}))

    def step(self) -> Sequence[Event]:
        """Wait for the events of a step of the workers. Raises their error where they have ended."""
        from qvl_core.generate.packed_request import unpack_event

        if not self._under_way:
            return []
        fields = self._workers.receive().fields
        self._active, self._tokens_held = fields["active"], fields["tokens_held"]
        # Others belong to a scheduler before this one.
        events = [event for event in map(unpack_event, fields["events"]) if event.request_id in self._under_way]
        self._under_way -= {event.request_id for event in events if event.finished is not None}
        return events
