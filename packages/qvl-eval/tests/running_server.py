"""A server in a thread over a scheduler that needs no model: its answers are a text of the test's choice."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import io
import json
import queue
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image
from qvl_core.generate import GenerationOptions
from qvl_core.specs import load_spec
from qvl_data.processor import Processor, load_processor
from qvl_eval.answers.driver import Driver
from qvl_eval.answers.engine_thread import EngineThread
from qvl_eval.answers.job import make_job
from qvl_eval.serve.access_rules import bind
from qvl_eval.serve.answering import Served
from qvl_eval.serve.guard import Access
from qvl_eval.serve.limits import Limits
from qvl_eval.serve.server import serve

CHECKPOINT = Path(__file__).resolve().parents[3] / "recipes" / "tiny" / "checkpoint"
STOP = 492
# Nothing takes as long, however busy the machine is.
WAIT_S = 180.0


@functools.lru_cache(maxsize=1)
def tiny_processor() -> Processor:
    """Give the processor of the tiny checkpoint."""
    return load_processor(CHECKPOINT, load_spec(CHECKPOINT), min_pixels=784, max_pixels=12544)


@dataclass(frozen=True, kw_only=True)
class FakeEvent:
    """As `qvl_core.generate.request.Event`."""

    request_id: str
    token: int
    text_index: int
    finished: str | None


class FakeScheduler:
    """Answers every request with the tokens of `text`, again and again where `endless`.

    `gate` holds every step up while it is not set; `cancels` gets what was cancelled, `options` what was asked for.
    The next `failures` steps raise `error`.
    """

    def __init__(self, text: str, *, slots: int = 2, endless: bool = False) -> None:
        self._ids: list[int] = tiny_processor().chat._encoder.encode(text, add_special_tokens=False).ids
        self._slots = slots
        self._endless = endless
        self._pace = threading.Event()
        self._left: dict[str, Any] = {}
        self._counts: dict[str, int] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.stepping: queue.Queue[int] = queue.Queue()
        self.cancels: queue.Queue[str] = queue.Queue()
        self.options: list[GenerationOptions] = []
        self.prompts: list[Any] = []
        self.most_active = 0
        self.failures = 0
        self.error: type[Exception] = RuntimeError

    @property
    def active(self) -> int:
        return min(self._slots, len(self._left))

    @property
    def waiting(self) -> int:
        return len(self._left) - self.active

    @property
    def is_idle(self) -> bool:
        return not self._left

    @property
    def tokens_held(self) -> int:
        return sum(self._counts.values())

    def submit(self, request: Any) -> None:
        self._left[request.request_id] = request
        self._counts[request.request_id] = 0
        self.options.append(request.options)
        self.prompts.append(request.prompt)

    def cancel(self, request_id: str) -> None:
        if self._left.pop(request_id, None) is not None:
            self.cancels.put(request_id)

    def step(self) -> list[FakeEvent]:
        self.stepping.put(self.active)
        assert self.gate.wait(WAIT_S), "the test never opened the gate"
        if self._endless:
            # About as fast as a small model, and no faster: nobody is to drown in tokens.
            self._pace.wait(0.001)
        if self.failures:
            self.failures -= 1
            self._left.clear()
            raise self.error("made to fail")
        self.most_active = max(self.most_active, self.active)
        return [self._event(name, self._left[name]) for name in list(self._left)[: self._slots]]

    def _event(self, name: str, request: Any) -> FakeEvent:
        index = self._counts[name]
        self._counts[name] += 1
        finished = None
        if index == len(self._ids) and not self._endless:
            token, finished = STOP, "stop"
        else:
            token = self._ids[index % len(self._ids)]
            finished = "length" if index + 1 == request.options.max_new_tokens else None
        if finished:
            del self._left[name]
        return FakeEvent(request_id=name, token=token, text_index=index, finished=finished)


@dataclass(kw_only=True)
class RunningServer:
    """A context manager. `exit_code` is there after `stop`."""

    scheduler: FakeScheduler
    limits: Limits = field(default_factory=Limits)
    access: Access = field(default_factory=Access)
    root: Path | None = None
    slots: int = 2
    drain_s: float = WAIT_S
    window: int = 4096
    send_buffer: int | None = None
    exit_code: int | None = None

    def __enter__(self) -> RunningServer:
        self._listener = bind("127.0.0.1", 0, has_token=False)
        if self.send_buffer is not None:
            # Connections inherit it: a client that does not read is noticed after little.
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.send_buffer)
        self.port = self._listener.getsockname()[1]
        stop: queue.Queue[Any] = queue.Queue()
        self._on_start = stop.put
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.begin_stop = stop.get(timeout=WAIT_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.scheduler.gate.set()
        self.stop()

    def stop(self) -> int | None:
        """End it as SIGTERM does and give the exit code."""
        self.begin_stop()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "the server does not end"
        return self.exit_code

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)

    def socket(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S)

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        connection = self.connect()
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        found = response.status, response.read()
        connection.close()
        return found

    def post(self, body: Any, path: str = "/v1/chat/completions", **headers: str) -> tuple[int, dict[str, Any]]:
        """Post JSON, or bytes as they are, and give status and content."""
        connection = self.connect()
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, body=data, headers={"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        found = response.status, json.loads(response.read())
        connection.close()
        return found

    def gauge(self, name: str) -> float:
        """Give a value of /metrics."""
        lines = self.get("/metrics")[1].decode().splitlines()
        return float(next(line.rpartition(" ")[2] for line in lines if line.startswith(f"{name} ")))

    def run_here(self) -> int:
        """Serve in this thread until a signal comes, say the port, and give the exit code."""
        self._listener = bind("127.0.0.1", 0, has_token=False)
        port = self._listener.getsockname()[1]
        self._on_start = lambda _: print(port, flush=True)
        self._run()
        assert self.exit_code is not None
        return self.exit_code

    def _run(self) -> None:
        processor = tiny_processor()
        served = Served(
            name="tiny",
            window=self.window,
            options=GenerationOptions(max_new_tokens=64, eos_token_id=(STOP, 490)),
            make_job=functools.partial(make_job, processor, window=self.window),
            slots=self.slots,
            held_tokens=self.window,
        )
        self.exit_code = serve(
            EngineThread(lambda: Driver(self.scheduler, processor.chat.decode)),
            served,
            limits=self.limits,
            access=self.access,
            root=self.root,
            listener=self._listener,
            drain_s=self.drain_s,
            on_start=self._on_start,
        )


def asked(text: str = "Hi", **more: Any) -> dict[str, Any]:
    """Give the body of a request with one text."""
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **more}


def asked_about(url: str, kind: str = "image_url", **more: Any) -> dict[str, Any]:
    """Give the body of a request with one medium."""
    content = [{"type": kind, kind: {"url": url}}, {"type": "text", "text": "What?"}]
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], **more}


def png(width: int = 40, height: int = 40) -> bytes:
    """Give the bytes of a picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 10, 10)).save(buffer, "PNG")
    return buffer.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    """Give a data URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def raw_request(body: bytes, *, length: int | None = None, more: str = "", path: str = "/v1/chat/completions") -> bytes:
    """Give a request as bytes; `length` is what it says of itself."""
    size = len(body) if length is None else length
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n"
    return head.encode() + more.encode() + b"\r\n" + body


def read_all(connection: socket.socket) -> bytes:
    """Read until the other side closes, or resets."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


if __name__ == "__main__":
    # A process of its own, for tests that send it signals. Answers never end unless their request says when.
    scheduler = FakeScheduler("word ", endless=True)
    endless = RunningServer(scheduler=scheduler, window=100_000_000, drain_s=3600)
    raise SystemExit(endless.run_here())
