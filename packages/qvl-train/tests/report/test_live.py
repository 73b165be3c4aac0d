"""The live page: newer with every row, for this machine and for no other site."""

from __future__ import annotations

import http.client
import json
import math
import os
import shutil
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qvl_core.errors import OutputError
from qvl_train.report.live import HOST, LiveRuns, LiveServer
from qvl_train.report.run_history import RunHistory, open_runs
from run_folders import record, rows, write_run


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    write_run(tmp_path / "run", rows(range(1, 4)), content=record())
    with LiveServer(LiveRuns(open_runs([tmp_path / "run"])), 0) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def ask(server: LiveServer, path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection(HOST, server.server_address[1], timeout=180)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), dict(answer.getheaders())
    finally:
        connection.close()


def state(server: LiveServer, version: str = "") -> dict[str, Any]:
    status, text, _ = ask(server, f"/state.json?version={version}")
    assert status == 200
    return json.loads(text)


def test_listens_on_this_machine_only(server: LiveServer) -> None:
    assert server.server_address[0] == "127.0.0.1"


def test_gives_the_page_and_then_what_is_new(server: LiveServer, tmp_path: Path) -> None:
    status, page, headers = ask(server, "/")
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert "step 3 of 300" in page
    first = state(server)
    assert "step 3 of 300" in first["body"]
    assert "body" not in state(server, first["version"])
    write_run(tmp_path / "run", rows(range(1, 6)))
    second = state(server, first["version"])
    assert second["version"] != first["version"]
    assert "step 5 of 300" in second["body"]
    # An emptied file is something new: what it had must not stay.
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    third = state(server, second["version"])
    assert "step 5 of 300" not in third["body"]
    assert second["said"].startswith("live: last number ")


def test_says_when_the_run_has_finished(server: LiveServer, tmp_path: Path) -> None:
    write_run(tmp_path / "run", rows(range(1, 301)), content=record(result={"steps": 300}))
    found = state(server)
    assert (found["said"], found["tone"]) == ("finished", "good")
    assert "finished, 300 steps" in found["body"]


def test_a_run_that_has_finished_with_nan_is_not_told_as_good(server: LiveServer, tmp_path: Path) -> None:
    write_run(tmp_path / "run", [{"step": 1, "loss": math.nan}], content=record(result={"steps": 1}))
    found = state(server)
    assert (found["said"], found["tone"]) == ("finished", "bad")
    assert "loss is NaN since step 1" in found["body"]


def test_what_cannot_be_read_any_more_is_told_and_the_old_page_stays(server: LiveServer, tmp_path: Path) -> None:
    first = state(server)
    path = tmp_path / "run" / "metrics.jsonl"
    path.unlink()
    path.mkdir()
    found = state(server, first["version"])
    assert "not a regular file" in found["problem"]
    path.rmdir()
    write_run(tmp_path / "run", rows(range(1, 10)))
    healed = state(server, first["version"])
    assert healed["problem"] == ""
    assert "step 9 of 300" in healed["body"]


def test_a_second_browser_takes_nothing_from_the_first(server: LiveServer, tmp_path: Path) -> None:
    first = state(server)
    write_run(tmp_path / "run", rows(range(1, 7)))
    # It opens the page between two questions of the first one, and so is the one that reads the new rows.
    assert "step 6 of 300" in ask(server, "/")[1]
    assert "step 6 of 300" in state(server, first["version"])["body"]


def test_a_folder_that_is_gone_is_told_and_what_was_read_stays(server: LiveServer, tmp_path: Path) -> None:
    first = state(server)
    shutil.rmtree(tmp_path / "run")
    found = state(server, first["version"])
    assert found["problem"] == "the folder of run is gone"
    assert "body" not in found
    # A browser that comes only now sees as much.
    assert "step 3 of 300" in ask(server, "/")[1]
    write_run(tmp_path / "run", rows(range(1, 3)), content=record())
    again = state(server, first["version"])
    assert again["problem"] == ""
    assert "step 2 of 300" in again["body"]


def test_of_several_runs_one_that_cannot_be_read_does_not_hold_up_the_others(tmp_path: Path) -> None:
    for name in "ab":
        write_run(tmp_path / name, rows(range(1, 4)), content=record())
    runs = LiveRuns(open_runs([tmp_path / "a", tmp_path / "b"]))
    first = runs.state("")
    shutil.rmtree(tmp_path / "a")
    write_run(tmp_path / "b", rows(range(1, 9)), content=record())
    found = runs.state(first["version"])
    assert found["problem"] == "the folder of a is gone"
    assert "step 8 of 300" in found["body"]


def test_of_several_runs_the_one_that_is_late_is_named(tmp_path: Path) -> None:
    for name in "ab":
        write_run(tmp_path / name, rows(range(1, 4)), content=record())
    long_ago = (tmp_path / "b" / "metrics.jsonl").stat().st_mtime - 7200
    os.utime(tmp_path / "b" / "metrics.jsonl", (long_ago, long_ago))
    found = LiveRuns(open_runs([tmp_path / "a", tmp_path / "b"])).state("")
    assert found["said"].startswith("b: last number ")
    assert found["tone"] == "bad"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1:1", "", "127.0.0.1.evil:{port}"])
def test_refuses_requests_that_do_not_name_it(server: LiveServer, host: str) -> None:
    status, text, _ = ask(server, "/state.json", Host=host.format(port=server.server_address[1]))
    assert status == 403
    assert "loss" not in text


def test_refuses_scripts_of_other_sites(server: LiveServer) -> None:
    assert ask(server, "/state.json", Origin="http://evil.example")[0] == 403
    assert ask(server, "/state.json", Origin=server.address.rstrip("/"))[0] == 200
    assert ask(server, "/", Host=f"localhost:{server.server_address[1]}")[0] == 200


def test_whatever_goes_wrong_a_browser_gets_an_answer(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> bool:
        raise RecursionError("too deep")

    monkeypatch.setattr(RunHistory, "update", fail)
    for path in ("/", "/state.json"):
        status, text, _ = ask(server, path)
        assert (status, text) == (503, "RecursionError: too deep\n")


@pytest.mark.parametrize("asked", ["GET /", "GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"], ids=["half", "whole"])
def test_a_browser_that_breaks_off_leaves_no_word_in_the_terminal(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], asked: str
) -> None:
    has_gone, is_over = threading.Event(), threading.Event()
    shutdown, page = server.shutdown_request, server.runs.page

    def late_page() -> str:
        assert has_gone.wait(180)
        return page()

    def end(request: Any) -> None:
        shutdown(request)
        is_over.set()

    monkeypatch.setattr(server.runs, "page", late_page)
    monkeypatch.setattr(server, "shutdown_request", end)
    port = server.server_address[1]
    with socket.create_connection((HOST, port), timeout=180) as connection:
        # Closed so, the other side is told that the connection was reset.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(asked.format(port=port).encode())
    has_gone.set()
    assert is_over.wait(180)
    assert capfd.readouterr() == ("", "")
    monkeypatch.undo()
    assert ask(server, "/")[0] == 200


def test_a_request_that_names_two_hosts_is_refused(server: LiveServer) -> None:
    port = server.server_address[1]
    with socket.create_connection((HOST, port), timeout=180) as connection:
        connection.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nHost: evil\r\n\r\n".encode())
        assert b" 403 " in connection.recv(1000)


def test_serves_no_file_and_takes_no_other_method(server: LiveServer) -> None:
    for path in ("/run.json", "/../run.json", "/metrics.jsonl", "//etc/passwd"):
        assert ask(server, path)[0] == 404
    connection = http.client.HTTPConnection(HOST, server.server_address[1], timeout=180)
    connection.request("POST", "/", body="x")
    assert connection.getresponse().status == 501
    connection.close()


def test_answers_are_not_kept_and_not_framed(server: LiveServer) -> None:
    _, _, headers = ask(server, "/")
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_a_taken_port_is_told_with_a_way_out(server: LiveServer, tmp_path: Path) -> None:
    port = server.server_address[1]
    with pytest.raises(OutputError) as caught:
        LiveServer(LiveRuns(open_runs([tmp_path / "run"])), port)
    assert caught.value.problems[0].key == f"--port {port}"
    assert "--port 0" in caught.value.problems[0].fix


def test_a_run_without_a_row_waits(tmp_path: Path) -> None:
    write_run(tmp_path, content=record())
    found = LiveRuns(open_runs([tmp_path])).state("")
    assert found["said"] == "live: waiting for the first step"
