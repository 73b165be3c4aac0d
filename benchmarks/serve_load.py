"""`qvl serve` under load: requests/s and latency at 1, 4 and 16 clients, then many requests, then more than it takes.

    python benchmarks/serve_load.py --out serve_load.json [--requests 200] [--many 1000] [--recipe RECIPE]

Without --recipe the tiny checkpoint with random weights is served. Every request shows another picture and asks for 16
tokens. Rounds of the client counts alternate, so that what else the machine does falls on all of them alike.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import itertools
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
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
    """What came back, and how long it took. Status 0: nothing did."""

    status: int
    seconds: float
    new_tokens: int


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
            load(port, bodies, clients=4, requests=32)
            rounds = [
                (clients, load(port, bodies, clients=clients, requests=given.requests))
                for _ in range(ROUNDS)
                for clients in CLIENTS
            ]
            result["clients"] = {
                str(clients): summary([found for count, found in rounds if count == clients]) for clients in CLIENTS
            }
            result["many"] = summary([load(port, bodies, clients=16, requests=given.many)])
        with serving(recipe, "--batch", "2", "--queue", "8") as port:
            result["overload"] = summary([load(port, bodies, clients=100, requests=500)])
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


def load(port: int, bodies: list[bytes], *, clients: int, requests: int) -> tuple[float, list[Reply]]:
    """Send requests from so many clients, each with a connection of its own; give the seconds and the replies."""
    numbers = itertools.count()
    started = time.perf_counter()

    def client(_: int) -> list[Reply]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        replies = []
        while (number := next(numbers)) < requests:
            replies.append(ask(connection, bodies[number % len(bodies)]))
        connection.close()
        return replies

    with ThreadPoolExecutor(clients) as pool:
        replies = [reply for found in pool.map(client, range(clients)) for reply in found]
    return time.perf_counter() - started, replies


def ask(connection: http.client.HTTPConnection, data: bytes) -> Reply:
    """Send one request and read its reply."""
    started = time.perf_counter()
    try:
        connection.request("POST", "/v1/chat/completions", data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = json.loads(response.read())
        status = response.status
    except (OSError, http.client.HTTPException, ValueError):
        connection.close()
        return Reply(status=0, seconds=time.perf_counter() - started, new_tokens=0)
    tokens = content["usage"]["completion_tokens"] if status == 200 else 0
    return Reply(status=status, seconds=time.perf_counter() - started, new_tokens=tokens)


def summary(rounds: list[tuple[float, list[Reply]]]) -> dict[str, Any]:
    """Give the rates of each round, and latencies and statuses over all."""
    replies = [reply for _, found in rounds for reply in found]
    good = sorted(reply.seconds for reply in replies if reply.status == 200)
    return {
        "requests": len(replies),
        "statuses": {str(status): count for status, count in sorted(Counter(r.status for r in replies).items())},
        "requests_per_s": [round(sum(r.status == 200 for r in found) / seconds, 2) for seconds, found in rounds],
        "tokens_per_s": [round(sum(r.new_tokens for r in found) / seconds, 1) for seconds, found in rounds],
        "p50_s": round(statistics.median(good), 4),
        "p99_s": round(good[min(len(good) - 1, int(0.99 * len(good)))], 4),
    }


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
    return {"model": "served", "messages": [{"role": "user", "content": content}], "max_tokens": NEW_TOKENS}


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
    return {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}


if __name__ == "__main__":
    main()
