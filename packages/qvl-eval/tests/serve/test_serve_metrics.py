"""/metrics as a scraper reads it, and its numbers."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

pytest.importorskip("uvicorn", reason="qvl-eval[serve] is not installed")

from qvl_eval.serve.metrics import Histogram, Metrics
from running_server import WAIT_S, FakeScheduler, RunningServer, asked, raw_request
from waiting import in_time

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE = re.compile(rf'({NAME})((?:\{{[a-z]+="[^"\\\n]*"\}})?) ([0-9.e+-]+|\+Inf)')
ANSWER = "one two three four"


def samples(text: str) -> dict[str, float]:
    """Read the text format, version 0.0.4, strictly: HELP, TYPE, then samples of that name only; no sample twice."""
    assert text.endswith("\n")
    found: dict[str, float] = {}
    name = kind = ""
    seen: set[str] = set()
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("# HELP "):
            name = line.split()[2]
            assert name not in seen
            seen.add(name)
            kind_line = next(lines).split(" ")
            assert kind_line[:3] == ["#", "TYPE", name]
            kind = kind_line[3]
            assert kind in ("counter", "gauge", "histogram")
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        ends = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        assert match[1] in {name + end for end in ends}, line
        assert match[1] + match[2] not in found
        found[match[1] + match[2]] = float(match[3])
        assert kind != "counter" or name.endswith("_total")
    return found


def buckets(found: dict[str, float], name: str) -> list[tuple[float, float]]:
    start = f'{name}_bucket{{le="'
    return [(float(key[len(start) : -2]), value) for key, value in found.items() if key.startswith(start)]


def test_the_text_is_prometheus_and_its_numbers_are_right() -> None:
    with RunningServer(scheduler=FakeScheduler(ANSWER)) as server:
        assert server.post(asked())[0] == 200
        assert server.post({**asked(), "n": 3})[0] == 400
        connection = server.connect()
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        assert response.getheader("content-type") == "text/plain; version=0.0.4; charset=utf-8"
        found = samples(response.read().decode())
        connection.close()
    tokens = found['qvl_tokens_total{kind="completion"}']
    assert found["qvl_first_token_seconds_count"] == 1
    assert found["qvl_token_seconds_count"] == tokens - 1
    assert found["qvl_answer_seconds_count"] == 1
    # Each is rounded to a microsecond.
    parts = found["qvl_first_token_seconds_sum"] + found["qvl_token_seconds_sum"]
    assert parts <= found["qvl_answer_seconds_sum"] + 2e-6
    for name in ("qvl_first_token_seconds", "qvl_token_seconds", "qvl_answer_seconds"):
        bounds = buckets(found, name)
        assert bounds[-1] == (float("inf"), found[f"{name}_count"])
        assert all(a < b and m <= n for (a, m), (b, n) in pairwise(bounds))
    assert found['qvl_http_responses_total{status="400"}'] == 1
    assert found["qvl_tokens_room"] == server.window


def test_another_reader_of_the_format_agrees() -> None:
    parser = pytest.importorskip("prometheus_client.parser", reason="prometheus_client is not installed")
    with RunningServer(scheduler=FakeScheduler(ANSWER)) as server:
        server.post(asked())
        text = server.get("/metrics")[1].decode()
    theirs = {
        sample.name + "".join(f'{{{key}="{value}"}}' for key, value in sample.labels.items()): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert theirs == samples(text)


def test_what_waits_and_what_is_under_way_are_seen_while_a_step_takes_long() -> None:
    scheduler = FakeScheduler(ANSWER)
    with RunningServer(scheduler=scheduler, slots=2) as server, ThreadPoolExecutor(5) as pool:
        scheduler.gate.clear()
        waiting = [pool.submit(server.post, asked()) for _ in range(5)]
        assert in_time(lambda: server.gauge("qvl_requests_in_house") == 5)
        scheduler.stepping.get(timeout=WAIT_S)
        # The engine is in a step that does not end, and everything else goes on.
        assert in_time(lambda: server.gauge("qvl_step_seconds") > 0)
        assert server.gauge("qvl_requests_waiting") >= 3
        assert in_time(lambda: server.gauge("qvl_connections") == 6)
        assert server.get("/health")[0] == 200
        assert server.post({**asked(), "n": 2})[0] == 400
        scheduler.gate.set()
        assert {one.result()[0] for one in waiting} == {200}
        assert in_time(lambda: server.gauge("qvl_requests_waiting") == 0)


def test_an_answer_that_nobody_waited_for_is_counted_as_cancelled() -> None:
    scheduler = FakeScheduler(ANSWER, endless=True)
    with RunningServer(scheduler=scheduler, window=100_000_000) as server:
        with server.socket() as connection:
            connection.sendall(raw_request(json.dumps(asked(stream=True, max_tokens=90_000_000)).encode()))
            assert connection.recv(100)
        scheduler.cancels.get(timeout=WAIT_S)
        name = 'qvl_answers_total{finish="cancelled"}'
        assert in_time(lambda: samples(server.get("/metrics")[1].decode()).get(name) == 1)


def test_large_numbers_are_exact() -> None:
    assert "bytes 123456789\n" in Metrics().render({"bytes": (123_456_789, "Some.")})


def test_a_duration_on_a_bound_is_within_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for seconds in (0.5, 1.0, 1.5, 9.0):
        histogram.add(seconds)
    histogram.add(2.0, count=3)
    found = [line.rpartition(" ")[2] for line in histogram.lines("x", "Some.") if "_bucket" in line or "_sum" in line]
    assert found == ["2", "6", "7", "18.000000"]
