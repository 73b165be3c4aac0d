"""Overload, clients that leave or dawdle, an engine that fails, the end."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="qvl-eval[serve] is not installed")

from qvl_core.generate.request import ScoresError
from qvl_eval.serve.limits import Limits
from running_server import WAIT_S, FakeScheduler, RunningServer, asked, data_url, png, raw_request, read_all
from waiting import in_time

ANSWER = "A fine day."
LONG = "word " * 400


def body_of(**more: Any) -> bytes:
    return json.dumps(asked(**more)).encode()


def test_all_of_many_clients_at_a_time_are_answered_or_told_to_come_back() -> None:
    scheduler = FakeScheduler(ANSWER)
    with RunningServer(scheduler=scheduler, limits=Limits(queue=4)) as server:
        scheduler.gate.clear()
        with ThreadPoolExecutor(100) as pool:
            waiting = [pool.submit(server.post, asked()) for _ in range(100)]
            assert in_time(lambda: sum(one.done() for one in waiting) == 94)
            assert {one.result()[0] for one in waiting if one.done()} == {429}
            assert server.get("/health")[0] == 200
            scheduler.gate.set()
            found = [one.result() for one in waiting]
        answered = [content for status, content in found if status == 200]
        assert len(answered) == 6
        assert {one["choices"][0]["message"]["content"] for one in answered} == {ANSWER}
        assert scheduler.most_active == 2
        assert server.post(asked())[0] == 200
        assert in_time(lambda: server.gauge("qvl_requests_in_house") == 0)


def test_a_refusal_says_when_to_come_back() -> None:
    scheduler = FakeScheduler(ANSWER)
    with RunningServer(scheduler=scheduler, limits=Limits(queue=0), slots=1) as server:
        scheduler.gate.clear()
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(server.post, asked())
            assert in_time(lambda: server.gauge("qvl_requests_in_house") == 1)
            connection = server.connect()
            connection.request("POST", "/v1/chat/completions", body_of(), {"Content-Type": "application/json"})
            response = connection.getresponse()
            assert (response.status, response.getheader("retry-after")) == (429, "1")
            # The connection is still good: nothing of the refused request is left on it.
            response.read()
            scheduler.gate.set()
            assert first.result()[0] == 200
            connection.request("POST", "/v1/chat/completions", body_of(), {"Content-Type": "application/json"})
            assert connection.getresponse().status == 200
            connection.close()


@pytest.mark.parametrize("stream", [False, True])
def test_the_work_of_a_client_that_hangs_up_stops(stream: bool) -> None:
    scheduler = FakeScheduler(ANSWER, endless=True)
    with RunningServer(scheduler=scheduler, window=100_000_000) as server:
        with server.socket() as connection:
            connection.sendall(raw_request(body_of(stream=stream, max_tokens=90_000_000)))
            scheduler.stepping.get(timeout=WAIT_S)
            if stream:
                assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        scheduler.cancels.get(timeout=WAIT_S)
        assert in_time(lambda: server.gauge("qvl_requests_in_house") == 0)
        assert 'qvl_answers_total{finish="cancelled"} 1' in server.get("/metrics")[1].decode()


def test_a_client_that_hangs_up_while_it_waits_takes_no_slot() -> None:
    scheduler = FakeScheduler(ANSWER)
    with RunningServer(scheduler=scheduler, slots=1) as server:
        scheduler.gate.clear()
        with ThreadPoolExecutor(5) as pool:
            others = [pool.submit(server.post, asked()) for _ in range(5)]
            assert in_time(lambda: server.gauge("qvl_requests_in_house") == 5)
            with server.socket() as connection:
                connection.sendall(raw_request(body_of()))
                assert in_time(lambda: server.gauge("qvl_requests_in_house") == 6)
            assert in_time(lambda: server.gauge("qvl_requests_in_house") == 5)
            scheduler.gate.set()
            assert {one.result()[0] for one in others} == {200}
        assert len(scheduler.prompts) == 5


def test_a_client_that_does_not_read_is_hung_up_on_and_others_are_answered() -> None:
    scheduler = FakeScheduler(LONG, endless=True)
    limits = Limits(write_s=0.3)
    server = RunningServer(scheduler=scheduler, limits=limits, window=100_000_000, send_buffer=4096)
    with server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(raw_request(body_of(stream=True, max_tokens=90_000_000)))
        assert server.post(asked(max_tokens=3))[0] == 200
        scheduler.cancels.get(timeout=WAIT_S)
        assert in_time(lambda: server.gauge("qvl_requests_in_house") == 0)


def test_a_body_that_does_not_come_in_time_is_a_408() -> None:
    with RunningServer(scheduler=FakeScheduler(ANSWER), limits=Limits(body_s=0.2)) as server:
        with server.socket() as connection:
            connection.sendall(raw_request(b"{", length=1000))
            assert read_all(connection).startswith(b"HTTP/1.1 408 ")
        assert in_time(lambda: server.gauge("qvl_requests_in_house") == 0)


@pytest.mark.parametrize("start", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: local"])
def test_headers_that_do_not_come_in_time_end_the_connection(start: bytes) -> None:
    limits = Limits(header_s=0.2)
    with RunningServer(scheduler=FakeScheduler(ANSWER), limits=limits) as server, server.socket() as connection:
        connection.sendall(start)
        assert read_all(connection) == b""


@pytest.mark.parametrize("start", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: local"])
def test_headers_that_do_not_come_in_time_end_a_connection_that_was_good_before(start: bytes) -> None:
    # The first request has to be there in time, too.
    limits = Limits(header_s=3)
    with RunningServer(scheduler=FakeScheduler(ANSWER), limits=limits) as server, server.socket() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" + start)
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    ],
)
def test_what_is_no_http_harms_nobody(garbage: bytes) -> None:
    with RunningServer(scheduler=FakeScheduler(ANSWER), limits=Limits(header_s=0.5)) as server:
        with server.socket() as connection:
            with suppress(OSError):
                connection.sendall(garbage)
            assert b" 200 " not in read_all(connection).partition(b"\r\n")[0]
        # A request that comes too late on a busy machine is no harm done by the one before.
        assert in_time(lambda: is_answered(server))


def test_a_stream_that_waits_for_its_turn_carries_comments_and_then_an_error_it_can_read() -> None:
    scheduler = FakeScheduler(ANSWER)
    limits = Limits(silence_s=0.05)
    with RunningServer(scheduler=scheduler, limits=limits, slots=1) as server:
        scheduler.gate.clear()
        with ThreadPoolExecutor(3) as pool:
            others = [pool.submit(server.post, asked()) for _ in range(3)]
            assert in_time(lambda: server.gauge("qvl_requests_in_house") == 3)
            content = [{"type": "image_url", "image_url": {"url": data_url(png()[:60])}}]
            body = {"model": "tiny", "messages": [{"role": "user", "content": content}], "stream": True}
            with server.socket() as connection:
                connection.sendall(raw_request(json.dumps(body).encode(), more="Connection: close\r\n"))
                start = connection.recv(65536)
                while b": waiting" not in start:
                    part = connection.recv(65536)
                    assert part, start
                    start += part
                scheduler.gate.set()
                rest = read_all(connection)
            assert b'data: {"error"' in rest
            assert {one.result()[0] for one in others} == {200}


@pytest.mark.parametrize("error", [RuntimeError, ScoresError])
def test_an_engine_that_fails_once_fails_the_answers_under_way_and_goes_on(error: type[Exception]) -> None:
    scheduler = FakeScheduler(ANSWER)
    with RunningServer(scheduler=scheduler) as server:
        scheduler.failures, scheduler.error = 1, error
        status, content = server.post(asked())
        assert status == 500
        assert error.__name__ in content["error"]["message"]
        assert "made to fail" not in content["error"]["message"]
        assert server.post(asked())[0] == 200
        assert server.get("/health")[0] == 200


def test_an_engine_that_fails_again_and_again_is_given_up() -> None:
    scheduler = FakeScheduler(ANSWER)
    with RunningServer(scheduler=scheduler) as server:
        scheduler.failures = 10
        assert [server.post(asked())[0] for _ in range(3)] == [500] * 3
        assert in_time(lambda: server.get("/health")[0] == 503)
        assert server.post(asked())[0] == 503
        assert server.gauge("qvl_engine_up") == 0
    assert server.exit_code == 1


def test_the_end_waits_for_answers_and_takes_no_new_ones() -> None:
    scheduler = FakeScheduler(ANSWER)
    server = RunningServer(scheduler=scheduler)
    with server, ThreadPoolExecutor(1) as pool, server.socket() as idle:
        scheduler.gate.clear()
        first = pool.submit(server.post, asked())
        scheduler.stepping.get(timeout=WAIT_S)
        server.begin_stop()
        assert in_time(lambda: not is_open(server.port))
        # A connection without a request is no reason to wait.
        assert read_all(idle) == b""
        scheduler.gate.set()
        status, content = first.result()
        assert (status, content["choices"][0]["message"]["content"]) == (200, ANSWER)
    assert server.exit_code == 0


def test_the_end_does_not_wait_for_ever_and_says_that_answers_were_cut() -> None:
    scheduler = FakeScheduler(ANSWER, endless=True)
    server = RunningServer(scheduler=scheduler, drain_s=1, window=100_000_000)
    with server, server.socket() as connection:
        connection.sendall(raw_request(body_of(stream=True, max_tokens=90_000_000)))
        scheduler.stepping.get(timeout=WAIT_S)
        reading = threading.Thread(target=read_all, args=(connection,))
        reading.start()
        assert server.stop() == 1
        reading.join(WAIT_S)
        assert not reading.is_alive()


def is_answered(server: RunningServer) -> bool:
    try:
        return server.post(asked())[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
