"""What signals do to the server: a process of its own, over the scheduler that needs no model."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="qvl-eval[serve] is not installed")

from running_server import WAIT_S, asked, raw_request, read_all


@contextmanager
def running() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Give the process and its port; ends it for good."""
    script = Path(__file__).parents[1].joinpath("running_server.py")
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    killer = threading.Timer(2 * WAIT_S, process.kill)
    killer.start()
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
    finally:
        killer.cancel()
        process.kill()
        process.communicate()


def begun_stream(port: int, tokens: int) -> socket.socket:
    """Give the connection of a stream of which something has come."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
    connection.sendall(raw_request(json.dumps(asked(stream=True, max_tokens=tokens)).encode()))
    assert connection.recv(10) == b"HTTP/1.1 2"
    return connection


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=WAIT_S).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stream_under_way_is_finished_after_the_signal_and_the_process_ends_with_0(number: signal.Signals) -> None:
    with running() as (process, port), begun_stream(port, 1500) as connection:
        process.send_signal(number)
        # As from a launcher and a process group: the same end, told twice.
        process.send_signal(number)
        assert read_all(connection).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert process.wait(WAIT_S) == 0
        assert process.communicate()[1] == ""


def test_a_second_signal_ends_at_once_and_says_what_was_cut() -> None:
    with running() as (process, port), begun_stream(port, 90_000_000) as connection:
        process.send_signal(signal.SIGTERM)
        pause = threading.Event()
        while not is_refused(port):
            pause.wait(0.02)
        # Two that come within a second are one; this is another.
        pause.wait(1.2)
        process.send_signal(signal.SIGTERM)
        assert b"[DONE]" not in read_all(connection)
        assert process.wait(WAIT_S) == 1
        assert "1 requests were cut short" in process.communicate()[1]
