"""Bodies that are no request, or one of a wrong kind; what costs much to read is not read."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="qvl-eval[serve] is not installed")

from PIL import Image
from qvl_eval.serve.json_body import read_json
from running_server import FakeScheduler, RunningServer, asked, asked_about, data_url, png, raw_request
from waiting import in_time

MIB = 1024**2


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(scheduler=FakeScheduler("ok")) as server:
        yield server


def user(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def image(url: object) -> dict[str, Any]:
    return user([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": url}])


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": 7}, "model"),
        ({"model": None}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": ["Hi"]}, "messages.0"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"content": "Hi"}]}, "messages.0.role"),
        (user(None), "messages.0.content"),
        (user(7), "messages.0.content"),
        (user([]), "messages.0.content"),
        (user(["Hi"]), "messages.0.content.0"),
        (user([{"type": "text"}]), "messages.0.content.0.text"),
        (user([{"type": "text", "text": 7}]), "messages.0.content.0.text"),
        (user([{"type": "text", "text": "a", "more": 1}]), "messages.0.content.0.more"),
        (user([{"type": "input_audio", "input_audio": {}}]), "messages.0.content.0"),
        (image("http://localhost/a.png"), "messages.0.content.1.image_url"),
        (image({}), "messages.0.content.1.image_url.url"),
        (image({"url": None}), "messages.0.content.1.image_url.url"),
        (image({"url": data_url(png()), "detail": "huge"}), "messages.0.content.1.image_url.detail"),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": 101}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_p": "1"}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"repetition_penalty": "1"}, "repetition_penalty"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 5.0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 10**400}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"n": 1.0}, "n"),
        ({"stream": "true"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": False, "stream_options": {}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"stream": True, "stream_options": {"more": 1}}, "stream_options.more"),
        ({"stop": 7}, "stop"),
        ({"stop": ["a", None]}, "stop.1"),
        ({"stop": ["\ud800"]}, "messages"),
        ({"stop": "x" * 101}, "stop"),
        ({"logit_bias": {"1": 2.0}}, "logit_bias"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"modalities": ["text", "audio"]}, "modalities.1"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"user": 7}, "user"),
        ({"metadata": {"a": 1}}, "metadata.a"),
    ],
)
def test_a_field_of_a_wrong_kind_is_a_400_that_names_it(
    server: RunningServer, change: dict[str, Any], param: str
) -> None:
    status, content = server.post({**asked(), **change})
    assert status == 400, content
    assert content["error"]["param"] == param, content


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0},
        {"temperature": 1, "top_p": 1},
        {"n": 1, "stop": [], "logit_bias": {}, "tools": [], "presence_penalty": 0, "frequency_penalty": 0.0},
        {"user": "a", "metadata": {"a": "b"}, "store": True, "safety_identifier": "c", "prompt_cache_key": "d"},
        {"max_tokens": 5, "max_completion_tokens": 3},
        {"max_tokens": None, "temperature": None, "stop": None, "stream": None, "stream_options": None, "seed": None},
        user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
    ],
)
def test_what_changes_nothing_or_is_usual_is_taken(server: RunningServer, change: dict[str, Any]) -> None:
    assert server.post({**asked(), **change})[0] == 200


def test_the_newer_name_of_the_longest_answer_decides(server: RunningServer) -> None:
    assert isinstance(server.scheduler, FakeScheduler)
    server.post(asked(max_tokens=5, max_completion_tokens=3))
    assert server.scheduler.options[-1].max_new_tokens == 3


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"model":"other","model":"tiny","messages":[{"role":"user","content":"Hi"}]}', "'model' occurs twice"),
        (b'{"model":"tiny","messages":[{"role":"user","content":"Hi","content":"Ho"}]}', "'content' occurs twice"),
        (b'{"model":"tiny","temperature":Infinity}', "Infinity is not a JSON number"),
        (b'{"model":"tiny","temperature":1e400,"messages":[{"role":"user","content":"Hi"}]}', "finite"),
        (b'{"model":"tiny",}', "JSON"),
        (b"{'model':'tiny'}", "JSON"),
        (b'\xef\xbb\xbf{"model":"tiny"}', "JSON"),
        ('{"model":"tiny"}'.encode("utf-16"), "JSON"),
        (b'{"model":"tiny"} {}', "JSON"),
        (b'{"model":"ti\x00ny"}', "JSON"),
        # Thirty times their size, were they read.
        (b"[" + b"[]," * (8 * MIB // 3) + b"[]]", "50,000 values"),
        (b'{"model":"tiny","messages":[' + b"{}," * MIB + b"{}]}", "50,000 values"),
        (b"{" + b",".join(b'"k%d":1' % number for number in range(100_000)) + b"}", "50,000 values"),
        (b'{"model":"tiny","stop":[' + b'"",' * MIB + b'""]}', "50,000 values"),
        (b'""' * MIB, "JSON"),
        # A text without its end, of quotes: not looked at once for each of them, which would take days.
        (b"[" + b"," * 50_001 + b'"' + b'\\"' * (8 * MIB), "JSON"),
        (b'{"model":"tiny","messages":[' + b"{}," * 1000 + b"{}]}", "more than 1000 messages"),
    ],
)
def test_bodies_that_are_no_request(server: RunningServer, body: bytes, text: str) -> None:
    status, content = server.post(body)
    assert status == 400
    assert text in content["error"]["message"], content


def test_values_are_counted_and_the_characters_of_texts_are_not() -> None:
    text = json.dumps({"a": ',[{:"\\' * 1000, "b": [1, 2, 3]})
    assert read_json(text.encode(), values=10) == json.loads(text)
    assert len(read_json(b"[" + b"0," * 99 + b"0]", values=200)) == 100
    with pytest.raises(ValueError, match="more than 50 values"):
        read_json(b"[" + b"0," * 300 + b"0]", values=50)
    with pytest.raises(ValueError, match="occurs twice"):
        read_json(b"{" + b'"a":0,' * 10_000 + b'"b":0}', values=50_000)


def test_a_text_that_cannot_fit_the_window_is_not_even_tokenised() -> None:
    scheduler = FakeScheduler("ok")
    with RunningServer(scheduler=scheduler, window=100) as server:
        for size, message in ((800, "the window holds"), (801, "at most 800 are read")):
            status, content = server.post(asked("a" * size))
            assert status == 400
            assert message in content["error"]["message"]


def test_what_is_wrong_with_a_url_is_told_while_others_wait() -> None:
    scheduler = FakeScheduler("ok")
    with RunningServer(scheduler=scheduler, slots=1) as server, ExitStack() as stack:
        scheduler.gate.clear()
        for one in range(3):
            connection = stack.enter_context(server.socket())
            connection.sendall(raw_request(json.dumps(asked()).encode()))
            assert in_time(lambda count=one + 1: server.gauge("qvl_requests_in_house") == count)
        for url in ("http://x/a.png", "data:text/html;base64,AAAA", "data:image/png;base64,AAAA\u4f60", "a.png"):
            status, content = server.post(asked_about(url))
            assert status == 400
            assert content["error"]["param"] == "messages.0.content.0.image_url.url"


def animated(frames: int) -> bytes:
    buffer = io.BytesIO()
    pictures = [Image.new("P", (40, 40), number % 200) for number in range(frames)]
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:])
    return buffer.getvalue()


def with_text(data: bytes, kind: bytes) -> bytes:
    """Give a PNG with a chunk that holds 100 MB in 100 kB."""
    packed = b"k\0" + (b"\x01\0\0\0" if kind == b"iTXt" else b"\0") + zlib.compress(bytes(100_000_000), 9)
    check = zlib.crc32(kind + packed).to_bytes(4, "big")
    return data[:33] + len(packed).to_bytes(4, "big") + kind + packed + check + data[33:]


def test_an_animation_is_its_first_frame(server: RunningServer) -> None:
    assert isinstance(server.scheduler, FakeScheduler)
    status, content = server.post(asked_about(data_url(animated(500), "image/gif")))
    assert status == 200, content
    assert len(server.scheduler.prompts[-1].grids) == 1


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_a_bomb_in_the_text_of_an_image_is_a_400(server: RunningServer, kind: bytes) -> None:
    status, content = server.post(asked_about(data_url(with_text(png(), kind))))
    assert status == 400
    assert "too large" in content["error"]["message"].lower()


@pytest.mark.parametrize(("width", "height"), [(1, 20_000), (20_000, 1)])
def test_an_image_of_an_extreme_shape_is_a_400_with_its_numbers(server: RunningServer, width: int, height: int) -> None:
    status, content = server.post(asked_about(data_url(png(width, height))))
    assert status == 400
    assert "aspect ratio 20000" in content["error"]["message"]


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "IMAGE/X-ICON", "image/png;charset=utf-8"])
def test_an_image_is_what_its_bytes_are_whatever_its_url_says(server: RunningServer, kind: str) -> None:
    assert server.post(asked_about(data_url(png(1, 1), kind)))[0] == 200


def test_no_request_leaves_anything_behind(server: RunningServer) -> None:
    assert in_time(lambda: server.gauge("qvl_requests_in_house") == 0)
    assert in_time(lambda: server.gauge("qvl_body_bytes_held") == 0)
