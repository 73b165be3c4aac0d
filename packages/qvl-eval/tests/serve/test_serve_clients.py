"""What OpenAI clients see of `qvl serve`; the model's part is played by a scheduler that knows its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai", reason="the official client is not installed")
pytest.importorskip("uvicorn", reason="qvl-eval[serve] is not installed")

import openai
from qvl_eval.serve.limits import Limits
from running_server import WAIT_S, FakeScheduler, RunningServer, asked, asked_about, data_url, png, tiny_processor
from waiting import in_time

ANSWER = "Hello, 你好 👋!"
MESSAGES: Any = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def scheduler() -> FakeScheduler:
    return FakeScheduler(ANSWER)


@pytest.fixture
def server(scheduler: FakeScheduler) -> Iterator[RunningServer]:
    with RunningServer(scheduler=scheduler) as server:
        yield server


@pytest.fixture
def client(server: RunningServer) -> Iterator[Any]:
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=WAIT_S) as client:
        yield client


def test_a_whole_answer(client: Any) -> None:
    found = client.chat.completions.create(model="tiny", messages=MESSAGES)
    choice = found.choices[0]
    assert choice.message.content == ANSWER
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop"
    ids = tiny_processor().chat._encoder.encode(ANSWER, add_special_tokens=False).ids
    assert found.usage.completion_tokens == len(ids) + 1
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens


def test_a_streamed_answer_is_the_whole_one_in_pieces_of_whole_characters(client: Any) -> None:
    chunks = list(
        client.chat.completions.create(
            model="tiny", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == ANSWER
    assert len([piece for piece in pieces if piece]) > 3
    assert "\ufffd" not in "".join(pieces)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens > 0
    assert len({chunk.id for chunk in chunks}) == 1


def test_max_tokens_ends_an_answer(client: Any) -> None:
    found = client.chat.completions.create(model="tiny", messages=MESSAGES, max_completion_tokens=2)
    assert found.choices[0].finish_reason == "length"
    assert found.usage.completion_tokens == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_an_answer_before_it_and_its_work(
    client: Any, scheduler: FakeScheduler, stream: bool
) -> None:
    found = client.chat.completions.create(model="tiny", messages=MESSAGES, stop=["好", "x"], stream=stream)
    if stream:
        chunks = list(found)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        finish = chunks[-1].choices[0].finish_reason
    else:
        text, finish = found.choices[0].message.content, found.choices[0].finish_reason
    assert (text, finish) == ("Hello, 你", "stop")
    scheduler.cancels.get(timeout=WAIT_S)


@pytest.mark.parametrize(
    ("stop", "text", "finish"),
    [
        ("ello, 你", "H", "stop"),
        ("o, 你好 👋!", "Hell", "stop"),
        (["👋", "Hello"], "", "stop"),
        (["!?", "你x", "👋!!"], ANSWER, "stop"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_may_begin_and_end_within_tokens(
    client: Any, stop: Any, text: str, finish: str, stream: bool
) -> None:
    found = client.chat.completions.create(model="tiny", messages=MESSAGES, stop=stop, stream=stream)
    if not stream:
        assert (found.choices[0].message.content, found.choices[0].finish_reason) == (text, finish)
        return
    chunks = list(found)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    assert chunks[-1].choices[0].finish_reason == finish


def test_clients_see_the_id_of_their_request(client: Any) -> None:
    assert client.chat.completions.create(model="tiny", messages=MESSAGES)._request_id.startswith("req_")
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=MESSAGES, n=2)
    assert caught.value.request_id.startswith("req_")
    assert caught.value.param == "n"


def test_a_client_that_tries_again_gets_its_answer_in_the_end(server: RunningServer, scheduler: FakeScheduler) -> None:
    scheduler.failures = 1
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=3, timeout=WAIT_S) as client:
        found = client.chat.completions.create(model="tiny", messages=MESSAGES)
    assert found.choices[0].message.content == ANSWER


def test_a_stream_that_its_client_closes_ends_its_work() -> None:
    scheduler = FakeScheduler("word ", endless=True)
    server = RunningServer(scheduler=scheduler, window=100_000_000)
    with server, openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=WAIT_S) as client:
        found = client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True, max_tokens=90_000_000)
        assert next(iter(found)).choices[0].delta.role == "assistant"
        found.close()
        scheduler.cancels.get(timeout=WAIT_S)
        # The slot is another one's now.
        assert client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=2).usage


def test_a_hundred_streams_of_one_client_at_a_time_get_each_its_own_answer() -> None:
    scheduler = FakeScheduler(ANSWER)

    async def one(client: openai.AsyncOpenAI, number: int) -> tuple[int, str]:
        stream = await client.chat.completions.create(
            model="tiny", messages=MESSAGES, stream=True, max_tokens=1 + number % 5
        )
        return number, "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def all_of_them(url: str) -> list[tuple[int, str]]:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=WAIT_S) as client:
            return await asyncio.gather(*(one(client, number) for number in range(100)))

    with RunningServer(scheduler=scheduler, limits=Limits(queue=100)) as server:
        scheduler.gate.clear()
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(lambda: asyncio.run(all_of_them(server.url)))
            # All of them at a time, and health beside them.
            assert in_time(lambda: server.gauge("qvl_requests_in_house") == 100)
            assert server.get("/health")[0] == 200
            scheduler.gate.set()
            texts = found.result()
        assert in_time(lambda: server.gauge("qvl_requests_in_house") == 0)
    ids = tiny_processor().chat._encoder.encode(ANSWER, add_special_tokens=False).ids
    whole = [tiny_processor().chat.decode(ids[: 1 + number % 5]) for number in range(100)]
    assert [text for _, text in texts] == whole


def test_a_conversation_goes_on_with_the_client_s_own_objects(client: Any, scheduler: FakeScheduler) -> None:
    first = client.chat.completions.create(model="tiny", messages=MESSAGES)
    messages = [
        {"role": "system", "content": "Be brief."},
        *MESSAGES,
        first.choices[0].message,
        {"role": "user", "content": "Again"},
    ]
    client.chat.completions.create(model="tiny", messages=messages)
    text = tiny_processor().chat.decode(scheduler.prompts[-1].input_ids)
    assert "Be brief." in text
    assert ANSWER in text
    assert text.index(ANSWER) < text.index("Again")


def test_an_image_is_seen_in_its_place(client: Any, scheduler: FakeScheduler) -> None:
    client.chat.completions.create(**asked_about(data_url(png(60, 30))))
    prompt = scheduler.prompts[-1]
    assert len(prompt.grids) == 1
    assert (prompt.input_ids == tiny_processor().spec.tokens.image).sum() == prompt.grids.prod() // 4


def test_files_under_the_allowed_root_are_read_by_path_and_by_url(tmp_path: Path, scheduler: FakeScheduler) -> None:
    (tmp_path / "a b.png").write_bytes(png())
    with RunningServer(scheduler=scheduler, root=tmp_path.resolve()) as server:
        for url in ("a b.png", str(tmp_path / "a b.png"), f"file://{tmp_path}/a%20b.png"):
            status, content = server.post(asked_about(url))
            assert status == 200, content


def test_options_reach_the_engine(client: Any, scheduler: FakeScheduler) -> None:
    client.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        temperature=0.5,
        top_p=0.9,
        seed=7,
        extra_body={"top_k": 5, "repetition_penalty": 1.1},
    )
    options = scheduler.options[-1]
    assert options.samples
    assert (options.temperature, options.top_p, options.top_k, options.seed) == (0.5, 0.9, 5, 7)
    assert options.repetition_penalty == 1.1


def test_chance_without_a_seed_has_another_one_each_time_and_greed_is_the_default(
    client: Any, scheduler: FakeScheduler
) -> None:
    for temperature in (1.0, 1.0, 0.0):
        client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=temperature)
    client.chat.completions.create(model="tiny", messages=MESSAGES)
    first, second, greedy, default = scheduler.options
    assert first.seed != second.seed
    assert first.top_k == 0
    assert not greedy.samples
    assert not default.samples


def test_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_another_model_is_not_found(client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="other", messages=MESSAGES)
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 4000, "messages": [{"role": "user", "content": "word " * 500}]}, "messages"),
        ({"messages": [{"role": "user", "content": "word " * 6000}]}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"temperature": -1}, "temperature"),
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"logprobs": True}, "logprobs"),
        ({"presence_penalty": 1.0}, "presence_penalty"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ""}, "stop"),
        ({"unknown\x1b": 1}, "unknown\\x1b"),
    ],
)
def test_what_cannot_be_done_is_a_400_that_names_the_field(
    server: RunningServer, change: dict[str, Any], param: str
) -> None:
    status, content = server.post({**asked(), **change})
    assert status == 400, content
    assert str(content["error"]["param"]).startswith(param), content
    assert content["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"\xff\xfe",
        b'{"model": NaN}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"model": ' + b"1" * 10_000 + b"}",
    ],
)
def test_what_is_no_json_object_is_a_400(server: RunningServer, body: bytes) -> None:
    status, content = server.post(body)
    assert status == 400
    assert content["error"]["message"]


def test_other_paths_and_methods_are_answered_in_the_same_form(server: RunningServer) -> None:
    assert server.get("/v1/chat/completions")[0] == 405
    for path in ("/", "/v1", "/v1/models/", "/docs", "/%2e%2e/etc/passwd"):
        status, content = server.get(path)
        assert status == 404, path
        assert b'"error"' in content


def test_health_and_metrics(server: RunningServer) -> None:
    assert server.get("/health") == (200, b'{"status":"ok"}')
    server.post(asked())
    server.post({**asked(), "n": 3})
    text = server.get("/metrics")[1].decode()
    assert 'qvl_http_responses_total{status="400"} 1' in text
    assert 'qvl_answers_total{finish="stop"} 1' in text
    assert "qvl_first_token_seconds_count 1" in text
    assert in_time(lambda: server.gauge("qvl_requests_in_house") == 0)
    assert in_time(lambda: server.gauge("qvl_body_bytes_held") == 0)
    assert server.gauge("qvl_engine_up") == 1
