"""HTTP as it may come: old, ahead of itself, in crumbs, on too many connections; what every response carries."""

from __future__ import annotations

import json
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="qvl-eval[serve] is not installed")

from qvl_eval.serve import connection as connection_module
from qvl_eval.serve.connection import connections_within_reach
from qvl_eval.serve.guard import Access
from qvl_eval.serve.limits import Limits
from running_server import WAIT_S, FakeScheduler, RunningServer, asked, raw_request, read_all
from waiting import in_time

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
CLOSING = "Connection: close\r\n"
LAST_HEALTH = HEALTH[:-2] + CLOSING.encode() + b"\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    # What is sent here is there long before; a connection that is left open is closed after it.
    with RunningServer(scheduler=FakeScheduler("ok"), limits=Limits(header_s=5)) as server:
        yield server


def body_of(**more: Any) -> bytes:
    return json.dumps(asked(**more)).encode()


def chunked(*chunks: bytes) -> bytes:
    head = raw_request(b"", more=CLOSING).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


def exchange(server: RunningServer, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes, read until the end, and give the first response's status, headers and everything behind them."""
    with server.socket() as connection:
        connection.sendall(data)
        head, _, rest = read_all(connection).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, rest


def test_http_1_0_is_answered_whole_and_streamed(server: RunningServer) -> None:
    for stream, end in ((False, b'"total_tokens"'), (True, b"data: [DONE]\n\n")):
        data = raw_request(body_of(stream=stream)).replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n")
        status, headers, rest = exchange(server, data)
        assert status == 200
        assert end in rest
        assert "transfer-encoding" not in headers


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"])
def test_other_methods_are_a_405_that_names_the_right_one(server: RunningServer, method: str) -> None:
    data = f"{method} /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n{CLOSING}\r\n".encode()
    status, headers, rest = exchange(server, data)
    assert (status, headers["allow"]) == (405, "POST")
    assert (rest == b"") if method == "HEAD" else json.loads(rest)["error"]["type"] == "invalid_request_error"


def test_a_browser_that_asks_first_is_not_encouraged(server: RunningServer) -> None:
    head = "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAccess-Control-Request-Method: POST\r\n"
    for origin, expected in (("http://localhost:3000", 405), ("https://evil.example", 403)):
        status, headers, _ = exchange(server, f"{head}Origin: {origin}\r\n{CLOSING}\r\n".encode())
        assert status == expected
        assert not [name for name in headers if name.startswith("access-control")]


def test_head_of_a_page_has_no_body(server: RunningServer) -> None:
    status, headers, rest = exchange(server, LAST_HEALTH.replace(b"GET", b"HEAD"))
    assert (status, headers["content-length"], rest) == (200, "15", b"")


def test_a_websocket_is_not_opened_and_leaves_no_line_in_the_log(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    more = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n"
    assert exchange(server, HEALTH[:-2] + more)[0] == 200
    assert exchange(server, b"\x16\x03\x01\x02\x00\r\n\r\n")[0] == 400
    assert caplog.records == []


def test_requests_sent_ahead_are_answered_one_after_the_other(server: RunningServer) -> None:
    with server.socket() as connection:
        connection.sendall(raw_request(body_of()) + HEALTH + raw_request(body_of(), more=CLOSING))
        found = read_all(connection)
    assert found.count(b"HTTP/1.1 200 OK") == 3
    assert found.index(b'"chat.completion"') < found.index(b'"status"') < found.rindex(b'"chat.completion"')


@pytest.mark.parametrize("ahead", [b"\r\n", HEALTH])
def test_the_work_of_a_client_that_sent_ahead_and_hung_up_stops(ahead: bytes) -> None:
    scheduler = FakeScheduler("word ", endless=True)
    with RunningServer(scheduler=scheduler, window=100_000_000) as server:
        with server.socket() as connection:
            connection.sendall(raw_request(body_of(max_tokens=90_000_000)))
            scheduler.stepping.get(timeout=WAIT_S)
            connection.sendall(ahead)
            # What came ahead is there before the end is.
            assert in_time(lambda: scheduler.stepping.qsize() > 20)
        scheduler.cancels.get(timeout=WAIT_S)


def test_a_client_that_sends_ahead_without_end_is_not_read_without_end() -> None:
    scheduler = FakeScheduler("ok")
    with RunningServer(scheduler=scheduler, send_buffer=65_536) as server, server.socket() as connection:
        scheduler.gate.clear()
        connection.sendall(raw_request(body_of()))
        scheduler.stepping.get(timeout=WAIT_S)
        # Each piece has this time, not all of them together: however slow it reads, a reader takes the next one.
        connection.settimeout(2)
        with pytest.raises(TimeoutError):
            send_in_pieces(connection, 2**26)


def send_in_pieces(connection: socket.socket, size: int) -> None:
    sent = 0
    while sent < size:
        sent += connection.send(b"x" * 2**20)


def test_chunks_without_a_length_are_a_body(server: RunningServer) -> None:
    data = body_of()
    assert exchange(server, chunked(data[:7], data[7:]))[0] == 200
    # As crumbs too, while they are few.
    assert exchange(server, chunked(*(data[at : at + 1] for at in range(len(data)))))[0] == 200


def test_a_body_in_thousands_of_crumbs_is_a_400_and_a_large_one_in_pieces_is_read() -> None:
    with RunningServer(scheduler=FakeScheduler("ok")) as server:
        status, _, rest = exchange(server, chunked(*[b" "] * 5000, body_of()))
        assert status == 400
        assert json.loads(rest)["error"]["type"] == "invalid_request_error"
        assert exchange(server, chunked(*[b" " * 1000] * 2000, body_of()))[0] == 200
        assert in_time(lambda: server.gauge("qvl_body_bytes_held") == 0)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost localhost\r\n\r\n",
        raw_request(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"ZZZ\r\n",
    ],
)
def test_what_is_no_http_is_an_error_in_the_same_form(server: RunningServer, data: bytes) -> None:
    status, headers, rest = exchange(server, data)
    assert (status, headers["content-type"]) == (400, "application/json")
    assert json.loads(rest)["error"]["type"] == "invalid_request_error"


def test_a_client_that_waits_to_be_told_to_go_on_is_told(server: RunningServer) -> None:
    data = body_of()
    with server.socket() as connection:
        connection.sendall(raw_request(b"", length=len(data), more=f"Expect: 100-continue\r\n{CLOSING}"))
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(data)
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_waits_to_be_told_is_refused_without_sending() -> None:
    with RunningServer(scheduler=FakeScheduler("ok"), limits=Limits(body_bytes=1000)) as server:
        status, _, _ = exchange(server, raw_request(b"", length=2000, more="Expect: 100-continue\r\n"))
        assert status == 413


def test_every_response_has_an_id_the_client_s_own_if_it_is_plain(server: RunningServer) -> None:
    found = [exchange(server, LAST_HEALTH)[1]["x-request-id"] for _ in range(2)]
    assert len(set(found)) == 2
    with RunningServer(scheduler=FakeScheduler("ok"), access=Access(token=b"x" * 16)) as guarded:
        status, headers, _ = exchange(guarded, LAST_HEALTH)
        assert status == 401
        assert headers["x-request-id"].startswith("req_")
    for given, is_kept in ((b"trace-7.a_B", True), (b"a b", False), (b"x" * 129, False), (b"\xff", False)):
        headers = exchange(server, LAST_HEALTH[:-2] + b"X-Request-Id: " + given + b"\r\n\r\n")[1]
        assert (headers["x-request-id"] == given.decode("latin-1")) is is_kept


def test_more_connections_than_allowed_are_a_503_but_health_is_told() -> None:
    with RunningServer(scheduler=FakeScheduler("ok"), limits=Limits(connections=3)) as server, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(server.socket())
        assert in_time(lambda: server.gauge("qvl_connections") == 4)
        status, headers, rest = exchange(server, raw_request(body_of()))
        assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
        assert json.loads(rest)["error"]["code"] == "server_busy"
        assert server.get("/health")[0] == 200
        stack.close()
        assert in_time(lambda: server.gauge("qvl_connections") == 1)
        assert server.post(asked())[0] == 200


def test_connections_far_beyond_those_allowed_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_REFUSED", 2)
    with RunningServer(scheduler=FakeScheduler("ok"), limits=Limits(connections=2)) as server, ExitStack() as stack:
        found = [stack.enter_context(server.socket()) for _ in range(20)]
        # What is closed unread says so; the first four would wait.
        assert [read_all(one) for one in found[4:]] == [b""] * 16
        stack.close()
        assert in_time(lambda: server.get("/health")[0] == 200)


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "expected", "raised"),
    [
        (20_000, 20_000, 1000, 1000, None),
        (1024, 524_288, 1000, 1000, 1192),
        (256, 256, 1000, 64, None),
        (1024, resource.RLIM_INFINITY, 1000, 1000, 1192),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 1000, 1000, None),
        (100, 100, 1000, 1, None),
    ],
)
def test_connections_are_no_more_than_files_may_be_open(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, wanted: int, expected: int, raised: int | None
) -> None:
    now = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: now[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: now.append(pair))
    assert connections_within_reach(wanted) == expected
    assert now[-1][0] == (raised or soft)


def test_those_who_send_slowly_take_no_place_from_others() -> None:
    limits = Limits(queue=1)
    with RunningServer(scheduler=FakeScheduler("ok"), limits=limits, slots=1) as server, ExitStack() as stack:
        for _ in range(8):
            slow: socket.socket = stack.enter_context(server.socket())
            slow.sendall(raw_request(b"{", length=1000))
        assert in_time(lambda: server.gauge("qvl_body_bytes_held") == 8)
        assert server.post(asked())[0] == 200
