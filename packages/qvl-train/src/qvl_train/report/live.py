"""`qvl report RUN --watch`: the page of a run that goes on, on this machine only.

The standard library's server is enough: one person, one page, a state every two seconds. It listens on 127.0.0.1 and
answers only requests that name it so, so that no page of another site can read it through a browser (DNS rebinding).
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from qvl_core.errors import InputError, OutputError, Problem, QvlError
from qvl_core.input_file import printable

from qvl_train.report.metrics_file import METRICS
from qvl_train.report.numbers import seconds_text
from qvl_train.report.run_history import RunHistory
from qvl_train.report.run_page import page_body, run_page
from qvl_train.report.samples_card import SamplesCards

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
# A browser that is slow to ask must not hold a thread for ever.
_TIMEOUT_S = 30
# Several steps late: the run has stopped, hangs, or its steps are long.
_LATE = 10
_LATE_S = 60.0


class LiveRuns:
    """Runs that are read again when somebody asks. Safe for several threads."""

    def __init__(self, runs: Sequence[RunHistory], samples: SamplesCards | None = None) -> None:
        self._runs = runs
        self._samples = samples
        self._lock = threading.Lock()
        # Another server on the same port has other versions: an open page takes the new one's.
        self._version = f"{time.time_ns():x}"
        self._count = 0
        self._body = ""
        self._is_stale = False

    def page(self) -> str:
        """Give the whole page; of a run that cannot be read now, with what was read before."""
        with self._lock:
            self._update()
            return run_page(self._runs, live=True, samples=self._samples)

    def state(self, version: str) -> dict[str, Any]:
        """Give what a page of this version has to show: `version`, `body` where it is another one, and how fresh it is.

        `problem` says why the runs cannot be read; the page then stays as it is.
        """
        with self._lock:
            problem = self._update()
            if not self._body or self._is_stale:
                self._is_stale = False
                self._count += 1
                self._body = page_body(self._runs, live=True, samples=self._samples)
            now = f"{self._version}-{self._count}"
            said, tone = self._freshness()
            state = {"version": now, "problem": problem, "said": said, "tone": tone}
            return state if version == now else {**state, "body": self._body}

    def _update(self) -> str:
        """Read all runs, and say what is wrong with the first that cannot be read."""
        problem = ""
        for run in self._runs:
            try:
                # Not for this browser only: what it has read, the others have not seen yet.
                self._is_stale |= run.update()
            except (QvlError, OSError) as error:
                problem = problem or _first_line(error)
        return problem

    def _freshness(self) -> tuple[str, str]:
        going = [run for run in self._runs if run.facts.result is None]
        if not going:
            return "finished", "bad" if any(run.loss_trouble for run in self._runs) else "good"
        ages = [(age, run) for run in going if (age := _age(run)) is not None]
        if not ages:
            return "live: waiting for the first step", "warn"
        # Of several the one that is late is what a person has to know.
        late = [(age, run) for age, run in ages if age > max(_LATE_S, _LATE * _usual_s(run))]
        age, run = max(late, key=lambda one: one[0]) if late else min(ages, key=lambda one: one[0])
        name = f"{run.name}: " if late and len(self._runs) > 1 else "live: "
        return f"{name}last number {seconds_text(max(1, round(age)))} ago", "bad" if late else "good"


class LiveServer(ThreadingHTTPServer):
    """Serves the page. Raises OutputError where the port is taken. `address` is what a browser opens."""

    daemon_threads = True

    def __init__(self, runs: LiveRuns, port: int) -> None:
        self.runs = runs
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            message = f"cannot be listened on at {HOST}: {error.strerror}"
            fix = "--port 0 takes any that is free"
            raise OutputError(Problem(where="qvl report", key=f"--port {port}", message=message, fix=fix)) from None

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer
    timeout = _TIMEOUT_S
    server_version, sys_version = "qvl", ""

    def handle(self) -> None:
        """Answer what a connection asks. Where the browser breaks it off, nobody waits for an answer any more."""
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        """Answer with the page or its state."""
        if self._is_ours():
            self._send(*self._answer())
        else:
            self._send(HTTPStatus.FORBIDDEN, "text/plain", "this server answers only to its own address\n")

    def _answer(self) -> tuple[HTTPStatus, str, str]:
        """Give status, kind and text of what was asked for: whatever a folder holds, a browser gets an answer."""
        asked = urlsplit(self.path)
        try:
            if asked.path == "/":
                return HTTPStatus.OK, "text/html", self.server.runs.page()
            if asked.path == "/state.json":
                version = parse_qs(asked.query).get("version", [""])[0]
                return HTTPStatus.OK, "application/json", json.dumps(self.server.runs.state(version))
        except Exception as error:
            said = str(error) if isinstance(error, QvlError | OSError) else f"{type(error).__name__}: {error}"
            return HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", f"{said}\n"
        return HTTPStatus.NOT_FOUND, "text/plain", "there is / and /state.json\n"

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing: the terminal belongs to the command."""

    def _is_ours(self) -> bool:
        """Tell whether the request names this server, and comes from no page of another one."""
        port = self.server.server_address[1]
        hosts = {f"{name}:{port}" for name in NAMES}
        if len(self.headers.get_all("Host") or ()) != 1 or self.headers["Host"] not in hosts:
            return False
        origin = self.headers.get("Origin")
        return origin is None or origin in {f"http://{host}" for host in hosts}

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def _age(run: RunHistory) -> float | None:
    """Give how many seconds ago a number was written; None where there is none yet."""
    path = run.folder / METRICS
    try:
        return max(0.0, time.time() - Path(path).stat().st_mtime)
    except OSError:
        return None


def _usual_s(run: RunHistory) -> float:
    _, times = run.metrics.series("step_time_s")
    return float(times[-20:].mean()) if len(times) else 0.0


def _first_line(error: Exception) -> str:
    text = error.problems[0].message if isinstance(error, InputError) else str(error)
    return printable(text)
