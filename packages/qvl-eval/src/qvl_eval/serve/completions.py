"""/v1/chat/completions, whole and streamed.

While an answer grows the connection is watched: a client that hangs up ends its answer's work, whole or streamed. One
that does not read what it is sent is hung up on by `connection`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from qvl_eval.answers.job import Piece
from qvl_eval.serve import wire
from qvl_eval.serve.answering import Answering, Place
from qvl_eval.serve.body import Body, BodyBudget, ClientGoneError
from qvl_eval.serve.refusal import Refusal
from qvl_eval.serve.wire import ChatRequest

logger = logging.getLogger(__name__)

T = TypeVar("T")
_STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)
_COMMENT = b": waiting\n\n"
_DONE = b"data: [DONE]\n\n"


class Completions:
    """The endpoint as an ASGI application. Raises Refusal before a response has begun, never after."""

    def __init__(self, answering: Answering, budget: BodyBudget) -> None:
        self._answering = answering
        self._budget = budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        answering = self._answering
        try:
            # Before anything is read; the place itself is taken after that, so that who sends slowly holds none.
            answering.check_room()
            async with Body(request, answering.limits, self._budget) as body:
                with answering.place() as place:
                    asked = await answering.read(body.data)
                    # Its texts and images are in `asked` now, and counted for as long.
                    body.data = b""
                    if asked.stream:
                        await while_connected(receive, self._stream(asked, place, send))
                    else:
                        content = await while_connected(receive, self._whole(asked, place))
                        await JSONResponse(content)(scope, receive, send)
        except ClientGoneError:
            logger.debug("a client hung up")
        except asyncio.CancelledError:
            answering.cut += 1
            raise

    async def _whole(self, asked: ChatRequest, place: Place) -> dict[str, Any]:
        """Wait for the whole answer. Raises Refusal."""
        texts = []
        async with contextlib.aclosing(self._answering.pieces(asked, place)) as pieces:
            async for prompt_tokens, piece in pieces:
                texts.append(piece.text)
                last, counted = piece, prompt_tokens
        if last.finish == "failed":
            raise Refusal(status=500, message=last.failure, code="engine_failed")
        assert last.finish is not None, "the last piece says why the answer ended"
        return wire.completion(
            answer_id=_new_id(),
            model=self._answering.served.name,
            text="".join(texts),
            finish=last.finish,
            prompt_tokens=counted,
            new_tokens=last.new_tokens,
        )

    async def _stream(self, asked: ChatRequest, place: Place, send: Send) -> None:
        """Send the answer while it grows. Raises Refusal only before the first byte."""
        events = _Events(send)
        try:
            await self._send_pieces(events, asked, place)
        except Refusal as refusal:
            if not events.is_open:
                raise
            await events.send_json(refusal.content())
        await events.close()

    async def _send_pieces(self, events: _Events, asked: ChatRequest, place: Place) -> None:
        answering, answer_id = self._answering, _new_id()
        model = answering.served.name
        # Closed in the reverse order: what waits for the next piece goes before what makes it.
        async with (
            contextlib.aclosing(answering.pieces(asked, place)) as pieces,
            contextlib.aclosing(with_silences(pieces, answering.limits.silence_s)) as all_found,
        ):
            async for found in all_found:
                if found is None:
                    await events.send(_COMMENT)
                    continue
                prompt_tokens, piece = found
                if not events.is_begun:
                    delta = {"role": "assistant", "content": "", "refusal": None}
                    await events.send_json(wire.chunk(answer_id=answer_id, model=model, delta=delta))
                if piece.text:
                    await events.send_json(wire.chunk(answer_id=answer_id, model=model, delta={"content": piece.text}))
                if piece.finish is not None:
                    await self._end(events, asked, prompt_tokens, piece, answer_id)

    async def _end(self, events: _Events, asked: ChatRequest, prompt_tokens: int, piece: Piece, answer_id: str) -> None:
        if piece.finish == "failed":
            failure = Refusal(status=500, message=piece.failure, code="engine_failed")
            await events.send_json(failure.content())
            return
        model = self._answering.served.name
        await events.send_json(wire.chunk(answer_id=answer_id, model=model, delta={}, finish=piece.finish))
        if asked.wants_usage:
            counts = {"prompt_tokens": prompt_tokens, "new_tokens": piece.new_tokens}
            await events.send_json(wire.usage_chunk(answer_id=answer_id, model=model, **counts))
        await events.send(_DONE)


class _Events:
    """The response of a stream. It opens with the first thing that is sent; comments do not begin the answer."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.is_open = False
        self.is_begun = False

    async def send_json(self, content: dict[str, Any]) -> None:
        """Send an event."""
        self.is_begun = True
        await self.send(b"data: " + json.dumps(content, ensure_ascii=False).encode() + b"\n\n")

    async def send(self, data: bytes) -> None:
        """Send bytes; waits while the client does not read."""
        if not self.is_open:
            self.is_open = True
            await self._send({"type": "http.response.start", "status": 200, "headers": list(_STREAM_HEADERS)})
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def close(self) -> None:
        """End the response."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Do the work unless the client hangs up before its end. Raises ClientGoneError, and what the work raises."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        # What is cancelled cleans up; nothing of it may go on after this.
        await asyncio.gather(working, watching, return_exceptions=True)


async def with_silences(source: AsyncIterator[T], silence_s: float) -> AsyncGenerator[T | None, None]:
    """Give what comes, and None each time nothing has come for `silence_s`."""
    coming = asyncio.ensure_future(_next(source))
    try:
        while True:
            done, _ = await asyncio.wait({coming}, timeout=silence_s)
            if not done:
                yield None
                continue
            found = coming.result()
            if found is None:
                return
            yield found
            coming = asyncio.ensure_future(_next(source))
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


async def _next(source: AsyncIterator[T]) -> T | None:
    try:
        return await source.__anext__()
    except StopAsyncIteration:
        return None


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"
