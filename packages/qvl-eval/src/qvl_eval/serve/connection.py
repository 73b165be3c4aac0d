"""HTTP connections on which requests have to arrive, and answers be read, in time.

uvicorn bounds how long a connection may be silent between two requests, not how slowly a request's headers may come,
nor for how long a client may leave an answer unread.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

from qvl_eval.serve.limits import Limits


def timed_connection(limits: Limits) -> type[H11Protocol]:
    """Give the protocol class that keeps `header_s` and `write_s`."""

    class TimedConnection(H11Protocol):
        """Aborts, where a polite close would wait for the client."""

        _arriving: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._await_request()

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm_arriving()
            self._disarm_unread()
            super().connection_lost(exc)

        def handle_events(self) -> None:
            super().handle_events()
            if self.cycle is not None and not self.cycle.response_complete:
                self._disarm_arriving()

        def on_response_complete(self) -> None:
            # Before: another request may have come already, and is then begun in there.
            self._await_request()
            super().on_response_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._disarm_unread()
            self._unread = self.loop.call_later(limits.write_s, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._disarm_unread()

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
