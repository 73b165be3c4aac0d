"""`qvl serve` as a process, with a real (random) tiny model."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from http_calls import get, post
from qvl_core.cli.app import main
from running_server import WAIT_S, asked, asked_about, data_url, raw_request, read_all
from waiting import in_time

pytest.importorskip("uvicorn", reason="qvl-eval[serve] is not installed")
pytestmark = pytest.mark.skipif(importlib.util.find_spec("mindspore") is None, reason="mindspore is not installed")

WriteRecipe = Callable[..., Path]
PICTURES = sorted((Path(__file__).resolve().parents[4] / "recipes" / "tiny" / "digits" / "images").glob("*.png"))[:4]
PATIENCE_S = 1800


@contextmanager
def running(recipe: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Give the process and its port once it listens; ends it for good."""
    command = [sys.executable, "-m", "qvl_core.cli"]
    process = subprocess.Popen(
        [*command, "serve", str(recipe), "--port", "0", "--name", "tiny", *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    killer = threading.Timer(PATIENCE_S, process.kill)
    killer.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/v1", line):
                yield process, int(found[1])
                return
        raise AssertionError(f"ended with {process.wait()} before it listened")
    finally:
        killer.cancel()
        process.kill()
        process.wait()


def test_answers_are_those_of_qvl_infer_whatever_is_under_way_and_sigterm_drains(
    write_recipe: WriteRecipe, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe("infer")
    expected = []
    for picture in PICTURES:
        assert main(["infer", str(recipe), "--prompt", "What?", "--image", str(picture)]) == 0
        expected.append(capsys.readouterr().out.strip())
    bodies = [asked_about(data_url(picture.read_bytes())) for picture in PICTURES]
    # Time enough for the last answer, however busy the machine is.
    with running(recipe, "--batch", "3", "--drain", "900") as (process, port), ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda body: post(port, body), bodies * 4))
        assert [status for status, _ in found] == [200] * 16
        texts = [json.loads(data)["choices"][0]["message"]["content"].strip() for _, data in found]
        assert texts == expected * 4
        chance = {**bodies[0], "temperature": 1.5, "max_tokens": 12}
        seeds = [7, 8, 7, None, 7, None]
        found = list(pool.map(lambda seed: post(port, {**chance, "seed": seed}), seeds))
        texts = [json.loads(data)["choices"][0]["message"]["content"] for _, data in found]
        # Whatever else was under way; and another seed, or none, is another answer.
        assert texts[0] == texts[2] == texts[4]
        assert len({texts[number] for number in (0, 1, 3, 5)}) == 4
        late = [pool.submit(post, port, {**body, "stream": True}) for body in bodies]
        found = [one.result() for one in late]
        assert all(data.rstrip().endswith(b"data: [DONE]") for _, data in found)
        endless = json.dumps({**asked("Hi"), "stream": True, "max_tokens": 3000}).encode()
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as gone:
            gone.sendall(raw_request(endless))
            assert gone.recv(10) == b"HTTP/1.1 2"
        # Its slot is free long before 3,000 tokens are there.
        assert in_time(lambda: b'qvl_answers_total{finish="cancelled"} 1' in get(port, "/metrics"))
        assert in_time(lambda: b"qvl_slots_active 0" in get(port, "/metrics"))
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as late_one:
            late_one.sendall(raw_request(endless.replace(b"3000", b"300")))
            assert late_one.recv(10) == b"HTTP/1.1 2"
            process.send_signal(signal.SIGTERM)
            assert read_all(late_one).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert process.wait(WAIT_S) == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--host", "0.0.0.0"), "nothing says who may ask"),
        (("--allow-root", "/"), "the whole file system"),
        (("--token-file", "none"), "there is no such file"),
    ],
)
def test_a_wrong_command_line_ends_with_exit_2_before_the_model_is_loaded(
    write_recipe: WriteRecipe, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], expected: str
) -> None:
    assert main(["serve", str(write_recipe("infer")), *words]) == 2
    assert expected in capsys.readouterr().err
