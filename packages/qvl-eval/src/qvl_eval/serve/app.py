"""All routes of the server, behind the guard."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qvl_eval.serve.answering import Answering
from qvl_eval.serve.body import RETRY, BodyBudget
from qvl_eval.serve.completions import Completions
from qvl_eval.serve.connection import Connections
from qvl_eval.serve.guard import Access, Guard
from qvl_eval.serve.metrics import CONTENT_TYPE, Metrics
from qvl_eval.serve.refusal import Refusal

logger = logging.getLogger(__name__)

_PLAIN_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class Routes:
    """The small endpoints."""

    def __init__(self, answering: Answering, metrics: Metrics, budget: BodyBudget, connections: Connections) -> None:
        self._answering = answering
        self._metrics = metrics
        self._budget = budget
        self._connections = connections
        self._started = int(time.time())

    async def models(self, _: Request) -> Response:
        """List the one model."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """Describe the one model. Raises Refusal for others."""
        name = request.path_params["name"]
        if name != self._answering.served.name:
            text = f"the model {name[:80]!a} is not here; this server has {self._answering.served.name}"
            raise Refusal(status=404, message=text, param="model", code="model_not_found")
        return JSONResponse(self._model())

    async def health(self, _: Request) -> Response:
        """Say whether questions are answered: 200, or 503 when the engine has stopped."""
        is_dead = self._answering.engine.state.is_dead
        return JSONResponse({"status": "failed" if is_dead else "ok"}, status_code=503 if is_dead else 200)

    async def metrics(self, _: Request) -> Response:
        """Give counters and gauges in Prometheus' text format."""
        answering = self._answering
        state = answering.engine.state
        stepping = time.monotonic() - state.step_started_s if state.step_started_s else 0.0
        gauges = {
            "qvl_requests_in_house": (answering.places, "Requests that are answered or wait."),
            "qvl_requests_waiting": (answering.waiting, "Requests whose answer has not begun."),
            "qvl_slots_active": (state.active, "Answers under way."),
            "qvl_slots": (answering.served.slots, "Answers that may be under way."),
            "qvl_tokens_held": (state.tokens_held, "Tokens in the cache of keys and values."),
            "qvl_tokens_room": (answering.served.held_tokens, "Tokens that this cache has room for."),
            "qvl_connections": (self._connections.open, "Open connections."),
            "qvl_body_bytes_held": (self._budget.held, "Bytes of request bodies that are held."),
            "qvl_step_seconds": (stepping, "For how long the engine has been in its present step."),
            "qvl_engine_up": (0 if state.is_dead else 1, "Whether the engine runs."),
        }
        return PlainTextResponse(self._metrics.render(gauges), media_type=CONTENT_TYPE)

    def _model(self) -> dict[str, object]:
        name = self._answering.served.name
        return {"id": name, "object": "model", "created": self._started, "owned_by": "qvl"}


def build_app(answering: Answering, metrics: Metrics, access: Access, connections: Connections) -> ASGIApp:
    """Put routes, counting and guard together."""
    budget = BodyBudget(answering.limits.bodies_bytes)
    routes = Routes(answering, metrics, budget, connections)
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", Completions(answering, budget), methods=["POST"]),
            Route("/v1/models", routes.models, methods=["GET"]),
            Route("/v1/models/{name:path}", routes.model, methods=["GET"]),
            Route("/health", routes.health, methods=["GET"]),
            Route("/metrics", routes.metrics, methods=["GET"]),
        ],
        exception_handlers={Refusal: _refused, HTTPException: _not_routed, Exception: _failed},
    )
    # Paths are what they are: no redirect sends a client, and its token, to another place.
    app.router.redirect_slashes = False
    return _Outside(Guard(_NotTooMany(app, connections), access), metrics.response)


class _Outside:
    """Counts the statuses of responses and gives each request an id, those that the guard refuses included."""

    def __init__(self, app: ASGIApp, count: Callable[[int], None]) -> None:
        self._app = app
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._count(message["status"])
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        request_id = _request_id(scope)
        await self._app(scope, receive, counting)


class _NotTooMany:
    """Answers with 503 where there are more connections than allowed; what watches the server gets its answer."""

    def __init__(self, app: ASGIApp, connections: Connections) -> None:
        self._app = app
        self._connections = connections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        most = self._connections.most
        if self._connections.open <= most or scope["path"] in ("/health", "/metrics"):
            await self._app(scope, receive, send)
            return
        text = f"more than {most} connections are open; try again"
        refusal = Refusal(status=503, message=text, code="server_busy", headers={**RETRY, "connection": "close"})
        await refusal.response()(scope, receive, send)


def _request_id(scope: Scope) -> bytes:
    """Give the client's own id of a request if it is a plain one, else a new one."""
    given = [value for name, value in scope.get("headers", ()) if name == b"x-request-id"]
    return given[0] if len(given) == 1 and _PLAIN_ID.fullmatch(given[0]) else b"req_" + uuid.uuid4().hex.encode()


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return error.response()


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = ascii(request.url.path[:80])
    text = f"{request.method} is not a method of {path}" if error.status_code == 405 else f"there is no {path}"
    return Refusal(status=error.status_code, message=text, headers=error.headers or {}).response()


async def _failed(_: Request, error: Exception) -> Response:
    # Starlette raises the error again once this is sent, and uvicorn logs it with its traceback.
    return Refusal(status=500, message=f"the server failed: {type(error).__name__}").response()
