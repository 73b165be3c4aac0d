"""`qvl serve`: the model, the engine's thread, uvicorn, signals."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from qvl_core.errors import EXIT_FAILED, NotInstalledError

from qvl_eval.serve.ending import Ending
from qvl_eval.serve.limits import Limits

if TYPE_CHECKING:
    import uvicorn
    from qvl_core.recipe import Recipe
    from qvl_core.tasks import StartWorkers
    from starlette.types import ASGIApp

    from qvl_eval.answers.engine_thread import EngineThread
    from qvl_eval.answers.opening import AnsweringModel
    from qvl_eval.serve.answering import Served
    from qvl_eval.serve.guard import Access

# For the step that the engine is in when everything else has ended.
_STOP_S = 30.0


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """The command line of `qvl serve`."""

    host: str
    port: int
    token_file: Path | None
    allowed_hosts: tuple[str, ...]
    allow_root: Path | None
    name: str | None
    slots: int
    held_tokens: int
    drain_s: float
    limits: Limits


def run_server(recipe: Recipe, options: ServerOptions, start_workers: StartWorkers | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C and give the exit code: 1 if requests were cut short, else 0.

    `start_workers` is there where the layout has several processes. Raises InputError before anything is loaded,
    NotInstalledError, and the launcher's error where a worker has failed.
    """
    _require_installed()
    from qvl_eval.answers.driver import make_driver
    from qvl_eval.answers.engine_thread import EngineThread
    from qvl_eval.answers.opening import open_model
    from qvl_eval.serve.access_rules import bind, checked_root, host_names, read_token
    from qvl_eval.serve.guard import Access

    access = Access(token=read_token(options.token_file), names=host_names(options.allowed_hosts))
    root = checked_root(options.allow_root)
    with (
        bind(options.host, options.port, has_token=access.token is not None) as listener,
        open_model(recipe, start_workers) as loaded,
    ):
        served = _served(recipe, loaded, options)

        def begin(stop: Callable[[], None]) -> None:
            # Without its workers a server can answer nobody: it ends as by SIGTERM, and says why.
            loaded.when_ended(stop)
            typer.echo(_greeting(listener, served, options))

        engine = EngineThread(
            functools.partial(make_driver, loaded, slots=options.slots, max_tokens=options.held_tokens)
        )
        code = serve(
            engine,
            served,
            limits=options.limits,
            access=access,
            root=root,
            listener=listener,
            drain_s=options.drain_s,
            on_start=begin,
        )
        if engine.error is not None:
            raise engine.error
        return code


def serve(
    engine: EngineThread,
    served: Served,
    *,
    limits: Limits,
    access: Access,
    root: Path | None,
    listener: socket.socket,
    drain_s: float,
    on_start: Callable[[Callable[[], None]], None],
) -> int:
    """Run engine and HTTP server on a bound socket until a signal, and give the exit code.

    `on_start` is called once the socket listens, with a function that does what SIGTERM does; signals reach the main
    thread only.
    """
    from qvl_eval.serve.access_rules import listen
    from qvl_eval.serve.answering import Answering
    from qvl_eval.serve.app import build_app
    from qvl_eval.serve.connection import Connections, connections_within_reach, timed_connection
    from qvl_eval.serve.media import MediaRules
    from qvl_eval.serve.metrics import Metrics

    metrics, connections = Metrics(), Connections(most=connections_within_reach(limits.connections))
    answering = Answering(engine, served, limits, MediaRules(limits=limits, root=root), metrics)
    listen(listener)
    ending = Ending()
    # Until all has ended: a signal that is told twice must not kill what the first one brings to its end.
    with ending.by_signals():
        engine.start()
        try:
            app = build_app(answering, metrics, access, connections)
            _run(app, listener, timed_connection(limits, connections), drain_s, ending, on_start)
        finally:
            answering.close()
            has_ended = engine.stop(_STOP_S)
    if answering.cut:
        typer.echo(f"qvl: {answering.cut} requests were cut short", err=True)
    return EXIT_FAILED if answering.cut or not has_ended else 0


def _greeting(listener: socket.socket, served: Served, options: ServerOptions) -> str:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    guard = "asks for the token" if options.token_file else "asks for no token"
    return (
        f"model {served.name}: {served.slots} answers at a time, {options.limits.queue} requests may wait, "
        f"{served.window:,} tokens for prompt and answer; {guard}\n"
        f"listening at http://{shown}:{port}/v1 (Ctrl-C or SIGTERM ends it)"
    )


def _run(
    app: ASGIApp,
    listener: socket.socket,
    connection: type[asyncio.Protocol],
    drain_s: float,
    ending: Ending,
    on_start: Callable[[Callable[[], None]], None],
) -> None:
    import uvicorn

    from qvl_eval.serve.access_rules import BACKLOG

    class _Server(uvicorn.Server):
        """Leaves signals to us: uvicorn's own would die of them once drained, whatever the exit code."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    config = uvicorn.Config(
        app,
        http=connection,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        # Not a line for whatever a port scanner sends.
        log_level="error",
        access_log=False,
        server_header=False,
        # A proxy's word for who the client is decides nothing here.
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(drain_s)),
        timeout_keep_alive=30,
        backlog=BACKLOG,
    )
    server = _Server(config)
    ending.ends(server)

    async def run() -> None:
        watching = asyncio.ensure_future(_when_started(server, functools.partial(on_start, ending.tell)))
        try:
            await server.serve(sockets=[listener])
        finally:
            watching.cancel()

    asyncio.run(run())


async def _when_started(server: uvicorn.Server, tell: Callable[[], None]) -> None:
    while not server.started:
        await asyncio.sleep(0.02)
    tell()


def _served(recipe: Recipe, loaded: AnsweringModel, options: ServerOptions) -> Served:
    from qvl_eval.answers.driver import window_of
    from qvl_eval.answers.job import make_job
    from qvl_eval.serve.answering import Served

    window = min(window_of(loaded), options.held_tokens)
    return Served(
        name=options.name or recipe.model.name or Path(recipe.weights.source).name,
        window=window,
        options=loaded.options,
        make_job=functools.partial(make_job, loaded.processor, window=window),
        slots=options.slots * loaded.replicas,
        held_tokens=options.held_tokens * loaded.replicas,
    )


def _require_installed() -> None:
    try:
        import starlette
        import uvicorn
    except ImportError as error:
        text = f"qvl serve needs starlette and uvicorn: {error}\n  fix: pip install 'qvl-eval[serve]'"
        raise NotInstalledError(text) from None
    del starlette, uvicorn
