"""The body of a request, bounded in size and time, and within what all bodies may hold together."""

from __future__ import annotations

import asyncio
import time

from starlette.requests import Request

from qvl_eval.serve.limits import Limits
from qvl_eval.serve.refusal import Refusal

_CLOSE = {"connection": "close"}
RETRY = {"retry-after": "1"}


class ClientGoneError(Exception):
    """The client hung up: there is nobody to answer."""


class BodyBudget:
    """Counts the bytes of bodies that are held. One event loop uses it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0

    def take(self, size: int) -> bool:
        """Count some more, unless that is too much."""
        if self.held + size > self._limit:
            return False
        self.held += size
        return True

    def give_back(self, size: int) -> None:
        """Take some off."""
        self.held -= size


class Body:
    """A context manager: reads on entering, and holds its part of the budget until `release` or the end."""

    def __init__(self, request: Request, limits: Limits, budget: BodyBudget) -> None:
        self._request = request
        self._limits = limits
        self._budget = budget
        self._held = 0
        self.data = b""

    async def __aenter__(self) -> Body:
        """Read the body. Raises Refusal (408, 411, 413, 415, 429) and ClientGoneError."""
        self._check_headers()
        try:
            self.data = await self._read()
        except BaseException:
            self.release()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Forget the bytes."""
        self.data = b""
        self._budget.give_back(self._held)
        self._held = 0

    def _check_headers(self) -> None:
        headers = self._request.headers
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            # Also what keeps a page of another site from posting here without its browser asking first.
            raise Refusal(status=415, message="Content-Type has to be application/json", headers=_CLOSE)
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Refusal(status=415, message="compressed bodies are not read", headers=_CLOSE)
        length = headers.get("content-length", "0")
        if length.isdecimal() and (len(length) > 18 or int(length) > self._limits.body_bytes):
            raise self._too_large()

    async def _read(self) -> bytes:
        deadline = time.monotonic() + self._limits.body_s
        chunks = []
        while True:
            try:
                message = await asyncio.wait_for(self._request.receive(), deadline - time.monotonic())
            except asyncio.TimeoutError:
                text = f"the body took longer than {self._limits.body_s:g} s"
                raise Refusal(status=408, message=text, headers=_CLOSE) from None
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            chunk = message.get("body", b"")
            if self._held + len(chunk) > self._limits.body_bytes:
                raise self._too_large()
            if not self._budget.take(len(chunk)):
                text = "other requests hold all the room there is for bodies; try again"
                raise Refusal(status=429, message=text, code="server_busy", headers={**RETRY, **_CLOSE})
            self._held += len(chunk)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)

    def _too_large(self) -> Refusal:
        text = f"the request is larger than {self._limits.body_bytes:,} bytes"
        return Refusal(status=413, message=text, code="request_too_large", headers=_CLOSE)
