"""`qvl serve` under load: requests/s and latency at 1, 4 and 16 clients, then many requests, then more than it takes.

    python benchmarks/serve_load.py --out serve_load.json [--requests 200] [--many 1000] [--recipe RECIPE]

Without --recipe the tiny checkpoint with random weights is served. Every request shows another picture (32 of them in
turn) and asks for 16 tokens. Rounds of the client counts alternate, so that what else the machine does falls on all of
them alike.

A size that is met for the first time is compiled, which takes longer than its answer. So each count of clients is run
before it is measured, until a run has no answer slower than twice the one before, and those runs stand in the result as
`warm_up`: their p99 is what the first users of a server see, that of the rounds what the others do.

Meanwhile /health is asked ten times a second, on connections of its own: its worst time says for how long the server
did nothing else. Streams say when their first token came. Every answer is compared with what its question gets alone
(`differences`). Of what is more than the server takes, nothing may be lost: each request is answered or a 429 that says
when to come back, and clients that do come back are all answered (`overload_again`).
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import itertools
import json
import math
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CLIENTS = (1, 4, 16)
NEW_TOKENS = 16
ROUNDS = 3
WARM_UPS = 6
HEALTH_EVERY_S = 0.1
RETRY_S = 1.0
RECIPE = """
schema = 1
task = "infer"
[model]
config = "{checkpoint}"
dtype = "float32"
[weights]
source = "{weights}"
[data.image]
min_pixels = 12544
max_pixels = 12544
[generation]
max_new_tokens = 16
[launch]
device = "cpu"
[output]
dir = "{weights}-run"
"""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back, and how long it took until its first token and its end. Status 0: nothing did."""

    status: int
    seconds: float
    first_s: float = 0.0
    new_tokens: int = 0
    retry_after: bool = False
    text: str = ""
    number: int = 0


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=200, help="of each client count and round")
    parser.add_argument("--many", type=int, default=1000, help="at 16 clients, none of which may fail")
    parser.add_argument("--recipe", help="serve this one")
    given = parser.parse_args()
    bodies = [json.dumps(body(number)).encode() for number in range(32)]
    with tempfile.TemporaryDirectory() as folder:
        recipe = given.recipe or str(tiny_recipe(Path(folder)))
        result: dict[str, Any] = {"machine": machine(), "recipe": given.recipe or "tiny, random weights"}
        with serving(recipe, "--batch", "8", "--queue", "32") as port:
            result["warm_up"] = {str(clients): warm_up(port, bodies, clients) for clients in CLIENTS}
            with Health(port) as health:
                rounds = [
                    (clients, load(port, bodies, clients=clients, requests=given.requests))
                    for _ in range(ROUNDS)
                    for clients in CLIENTS
                ]
                result["clients"] = {
                    str(clients): summary([found for count, found in rounds if count == clients]) for clients in CLIENTS
                }
                result["many"] = summary([load(port, bodies, clients=16, requests=given.many)])
            result["health_under_load"] = health.summary()
            result["differences"] = differences(port, bodies, [reply for _, (_, found) in rounds for reply in found])
        with serving(recipe, "--batch", "8", "--queue", "100") as port:
            warm_up(port, bodies, 16)
            result["connections_100"] = summary([load(port, bodies, clients=100, requests=300)])
        with serving(recipe, "--batch", "2", "--queue", "8") as port, Health(port) as health:
            warm_up(port, bodies, 4)
            result["overload"] = overload(port, bodies)
            result["overload_again"] = summary([load(port, bodies, clients=100, requests=100, again=True)])
        result["overload"]["health"] = health.summary()
    result["machine"]["load_after"] = os.getloadavg()
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


def warm_up(port: int, bodies: list[bytes], clients: int) -> list[dict[str, Any]]:
    """Run until the slowest answer is no longer one that waited for compiling, and say what each run was like."""
    runs: list[dict[str, Any]] = []
    while len(runs) < WARM_UPS:
        runs.append(summary([load(port, bodies, clients=clients, requests=max(32, 4 * clients))]))
        if len(runs) > 1 and runs[-1]["p99_s"] <= 2 * runs[-1]["p50_s"]:
            break
    return runs


def overload(port: int, bodies: list[bytes]) -> dict[str, Any]:
    """Ask from 100 clients at a time what only 10 have room for, and count what became of it."""
    found = load(port, bodies, clients=100, requests=500)
    refused = [reply for reply in found[1] if reply.status == 429]
    return {
        **summary([found]),
        "refused_with_retry_after": sum(reply.retry_after for reply in refused),
        "lost": sum(reply.status not in (200, 429) for reply in found[1]),
        "answered_after": ask(connect(port), bodies[0], 0).status,
    }


def differences(port: int, bodies: list[bytes], replies: list[Reply]) -> int:
    """Count the answers that are not the one the same question gets alone."""
    connection = connect(port)
    alone = {number: ask(connection, data, number).text for number, data in enumerate(bodies)}
    connection.close()
    return sum(reply.text != alone[reply.number] for reply in replies if reply.status == 200)


def load(
    port: int, bodies: list[bytes], *, clients: int, requests: int, again: bool = False
) -> tuple[float, list[Reply]]:
    """Send requests from so many clients, each with a connection of its own; give the seconds and the replies.

    With `again` a client that is told to come back does, after the second that it is told.
    """
    numbers = itertools.count()
    started = time.perf_counter()

    def client(_: int) -> list[Reply]:
        connection = connect(port)
        replies = []
        while (number := next(numbers)) < requests:
            place = number % len(bodies)
            replies.append(ask(connection, bodies[place], place))
            while again and replies[-1].status == 429:
                time.sleep(RETRY_S)
                replies[-1] = ask(connection, bodies[place], place)
        connection.close()
        return replies

    with ThreadPoolExecutor(clients) as pool:
        replies = [reply for found in pool.map(client, range(clients)) for reply in found]
    assert len(replies) == requests, f"{len(replies)} replies to {requests} requests"
    return time.perf_counter() - started, replies


def connect(port: int) -> http.client.HTTPConnection:
    """Give a connection to the server."""
    return http.client.HTTPConnection("127.0.0.1", port, timeout=300)


def ask(connection: http.client.HTTPConnection, data: bytes, number: int) -> Reply:
    """Send one request, streamed, and read its reply. A stream without its end is no answer."""
    started = time.perf_counter()
    try:
        connection.request("POST", "/v1/chat/completions", data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            response.read()
            seconds = time.perf_counter() - started
            has_time = response.getheader("retry-after") is not None
            return Reply(status=response.status, seconds=seconds, number=number, retry_after=has_time)
        first_s, chunks = 0.0, []
        while (line := response.readline()) and line != b"data: [DONE]\n":
            if line.startswith(b"data: "):
                first_s = first_s or time.perf_counter() - started
                chunks.append(json.loads(line[6:]))
        response.read()
        text = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
        tokens = chunks[-1]["usage"]["completion_tokens"]
    except (OSError, http.client.HTTPException, ValueError, LookupError):
        connection.close()
        return Reply(status=0, seconds=time.perf_counter() - started, number=number)
    seconds = time.perf_counter() - started
    return Reply(status=200, seconds=seconds, first_s=first_s, new_tokens=tokens, text=text, number=number)


def summary(rounds: list[tuple[float, list[Reply]]]) -> dict[str, Any]:
    """Give the rates and quantiles of each round, and those and the statuses over all."""
    replies = [reply for _, found in rounds for reply in found]
    good = [reply for reply in replies if reply.status == 200]
    result: dict[str, Any] = {
        "requests": len(replies),
        "statuses": {str(status): count for status, count in sorted(Counter(r.status for r in replies).items())},
        "requests_per_s": [round(sum(r.status == 200 for r in found) / seconds, 2) for seconds, found in rounds],
        "tokens_per_s": [round(sum(r.new_tokens for r in found) / seconds, 1) for seconds, found in rounds],
        "p50_s": quantile([r.seconds for r in good], 0.5),
        "p99_s": quantile([r.seconds for r in good], 0.99),
        "first_token_p50_s": quantile([r.first_s for r in good], 0.5),
        "first_token_p99_s": quantile([r.first_s for r in good], 0.99),
    }
    if len(rounds) > 1:
        for name, part in (("p50_s_of_rounds", 0.5), ("p99_s_of_rounds", 0.99)):
            result[name] = [quantile([r.seconds for r in found if r.status == 200], part) for _, found in rounds]
    return result


def quantile(seconds: list[float], part: float) -> float:
    """Give the smallest time that so large a part of all is not above."""
    found = sorted(seconds)
    return round(found[max(0, math.ceil(part * len(found)) - 1)], 4) if found else float("nan")


class Health:
    """A context manager that asks /health all the time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._has_ended = threading.Event()
        self._seconds: list[float] = []
        self._failed = 0
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Health:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._has_ended.set()
        self._thread.join()

    def summary(self) -> dict[str, Any]:
        """Say how it went."""
        seconds = self._seconds
        worst = round(max(seconds, default=float("nan")), 4)
        return {"asked": len(seconds), "failed": self._failed, "p99_s": quantile(seconds, 0.99), "worst_s": worst}

    def _ask(self) -> None:
        while not self._has_ended.wait(HEALTH_EVERY_S):
            connection, started = connect(self._port), time.perf_counter()
            try:
                connection.request("GET", "/health")
                self._failed += connection.getresponse().status != 200
            except (OSError, http.client.HTTPException):
                self._failed += 1
            self._seconds.append(time.perf_counter() - started)
            connection.close()


@contextmanager
def serving(recipe: str, *words: str) -> Iterator[int]:
    """Start `qvl serve`, give its port, end it by SIGTERM and demand exit code 0."""
    command = [sys.executable, "-m", "qvl_core.cli", "serve", recipe, "--port", "0", "--name", "served", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/v1", line):
                yield int(found[1])
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, f"qvl serve ended with {process.returncode}"
    finally:
        process.kill()
        process.wait()


def body(number: int) -> dict[str, Any]:
    """Give a request about picture `number`."""
    import numpy as np
    from PIL import Image

    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is this?"}]
    return {
        "model": "served",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": NEW_TOKENS,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def tiny_recipe(folder: Path) -> Path:
    """Write the tiny checkpoint with random weights and a recipe that serves it."""
    import numpy as np
    from qvl_core.params import parameter_table
    from qvl_core.specs import load_spec
    from qvl_core.weights.hf_writer import write_hf_folder
    from qvl_core.weights.tensor_io import tensor_from_array

    checkpoint, weights = ROOT / "recipes" / "tiny" / "checkpoint", folder / "weights"
    generator = np.random.default_rng(1)
    tensors = []
    for row in parameter_table(load_spec(checkpoint)):
        values = np.ones(row.shape, np.float32)
        if len(row.shape) > 1:
            values = generator.normal(0, 0.1, row.shape).astype(np.float32)
        tensors.append(tensor_from_array(row.name, values))
    write_hf_folder(tensors, checkpoint, weights)
    path = folder / "serve.toml"
    path.write_text(RECIPE.format(checkpoint=checkpoint, weights=weights), encoding="utf-8")
    return path


def machine() -> dict[str, Any]:
    """Say what it ran on."""
    system = {"python": platform.python_version(), "system": platform.platform()}
    return {"cores": os.cpu_count(), **system, "load_before": os.getloadavg()}


if __name__ == "__main__":
    main()
