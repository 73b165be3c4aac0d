"""HTTP connections on which requests have to arrive, and answers be read, in time; and not too many of them.

uvicorn bounds how long a connection may be silent between two requests, not how slowly a request's headers may come,
nor for how long a client may leave an answer unread. It stops reading where a second request comes before the first is
answered, and then does not see the client go; here it reads on, within bounds. What it refuses itself is text; here it
is an error in OpenAI's form.
"""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from qvl_eval.serve.limits import Limits
from qvl_eval.serve.refusal import bad_request

# Connections beyond those allowed that still get an answer, if only 503; further ones are closed unread.
_REFUSED = 64
# Descriptors for everything else: files of weights and images, the terminal, threads of the libraries.
_OTHER_FILES = 128
# Bytes of further requests that are kept while one is answered.
_AHEAD = 65_536
# A body may come in so many pieces, and one more for each so many bytes. Each costs as much as a small request, and a
# body of one-byte chunks would keep everybody else from being served.
_PIECES, _PIECE_BYTES = 1000, 512


@dataclass(kw_only=True, eq=False)
class Connections:
    """How many connections are open, and how many may be. One event loop uses it."""

    most: int
    open: int = 0


def connections_within_reach(wanted: int) -> int:
    """Give how many connections this process can hold open, at most as many as wanted; raises its limit of files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _REFUSED + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - _REFUSED - _OTHER_FILES))


def timed_connection(limits: Limits, connections: Connections) -> type[H11Protocol]:
    """Give the protocol class that keeps `header_s` and `write_s`, and counts."""

    class TimedConnection(H11Protocol):
        """Aborts, where a polite close would wait for the client."""

        _arriving: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle | None = None
        _next_event: Callable[[], Any]
        _pieces = 0
        _bytes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:
            connections.open += 1
            super().connection_made(transport)
            self._next_event = self.conn.next_event
            self.conn.next_event = self._counted_event
            if connections.open > connections.most + _REFUSED:
                transport.abort()
            else:
                self._await_request()

        def connection_lost(self, exc: Exception | None) -> None:
            connections.open -= 1
            self._disarm_arriving()
            self._disarm_unread()
            super().connection_lost(exc)

        def handle_events(self) -> None:
            super().handle_events()
            if self.cycle is not None and not self.cycle.response_complete:
                self._disarm_arriving()
                self._read_on()

        def on_response_complete(self) -> None:
            # Before: another request may have come already, and is then begun in there.
            self._await_request()
            super().on_response_complete()

        def send_400_response(self, msg: str) -> None:
            if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
                # Its request was answered before all of it had come; there is no place for a second answer.
                self.transport.abort()
                return
            content = json.dumps(bad_request(msg).content()).encode()
            size = str(len(content)).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", size), (b"connection", b"close")]
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=content),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._disarm_unread()
            self._unread = self.loop.call_later(limits.write_s, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._disarm_unread()

        def _should_upgrade(self) -> bool:
            # There are no WebSockets here; the request is answered as the plain one that it is too.
            return False

        def _counted_event(self) -> Any:
            event = self._next_event()
            if isinstance(event, h11.Request):
                self._pieces = self._bytes = 0
            elif isinstance(event, h11.Data):
                self._pieces += 1
                self._bytes += len(event.data)
                if self._pieces > _PIECES + self._bytes // _PIECE_BYTES:
                    raise h11.RemoteProtocolError("the body comes in too many small pieces")
            return event

        def _read_on(self) -> None:
            """Read also where the next request has begun: only who reads notices that the client hangs up."""
            is_ahead = self.flow.read_paused and self.conn.their_state is h11.DONE
            if is_ahead and len(self.conn.trailing_data[0]) < _AHEAD:
                self.flow.resume_reading()

        def _await_request(self) -> None:
            self._disarm_arriving()
            self._arriving = self.loop.call_later(limits.header_s, self.transport.abort)

        def _disarm_arriving(self) -> None:
            if self._arriving is not None:
                self._arriving.cancel()
                self._arriving = None

        def _disarm_unread(self) -> None:
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None

    return TimedConnection
