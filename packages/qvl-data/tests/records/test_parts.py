"""OpenAI-style messages: parts become texts and media, tool calls the text that the family's templates write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import pytest
from qvl_data.records.element import Element
from qvl_data.records.formats import parse_element
from qvl_data.records.record import Medium, Record

# The published template's lines for an assistant with tool calls (Qwen2.5, tokenizer_config.json).
TEMPLATE = """\
{%- if message.content %}{{- '\\n' + message.content }}{%- endif %}\
{%- for tool_call in message.tool_calls %}\
{%- if tool_call.function is defined %}{%- set tool_call = tool_call.function %}{%- endif %}\
{{- '\\n<tool_call>\\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}{{- tool_call.arguments | tojson }}\
{{- '}\\n</tool_call>' }}{%- endfor %}"""


def parse(messages: Any, **columns: Any) -> Record | tuple[Any, ...]:
    element = Element(line=1, index=0, value={"messages": messages, **columns})
    return parse_element(element, path=Path("x"), format_name="openai")


def ask(content: Any, answer: Any = "A cat") -> Record:
    found = parse([{"role": "user", "content": content}, {"role": "assistant", "content": answer}])
    assert isinstance(found, Record), found
    return found


def complaint(content: Any, **columns: Any) -> str:
    found = parse([{"role": "user", "content": content}, {"role": "assistant", "content": "a"}], **columns)
    assert isinstance(found, tuple)
    return "\n".join(f"{problem.message} {problem.fix}" for problem in found)


def test_parts_become_texts_and_media_in_their_order() -> None:
    found = ask(
        [
            {"type": "text", "text": "Compare "},
            {"type": "image_url", "image_url": {"url": "a.jpg", "detail": "low"}},
            {"type": "image_url", "image_url": "b.jpg"},
            {"type": "text", "text": " with"},
            {"type": "text", "text": " this "},
            {"type": "image", "image": "c.jpg"},
            {"type": "video", "video": "d.mp4"},
            {"type": "video_url", "video_url": {"url": "sub/e.mp4"}},
        ]
    )
    assert found.turns[0].texts == ("Compare ", "", " with this ", "", "", "")
    assert found.media == (
        Medium(kind="image", written="a.jpg"),
        Medium(kind="image", written="b.jpg"),
        Medium(kind="image", written="c.jpg"),
        Medium(kind="video", written="d.mp4"),
        Medium(kind="video", written="sub/e.mp4"),
    )


def test_a_marker_in_a_text_is_text() -> None:
    found = ask("What does <image> mean?", [{"type": "text", "text": "A <video> tag"}])
    assert found.media == ()
    assert found.turns[0].texts == ("What does <image> mean?",)


def test_keys_that_are_null_are_absent() -> None:
    parts = [
        {"type": "text", "text": "a", "image_url": None, "video": None},
        {"type": "image_url", "image_url": {"url": "a.jpg"}, "text": None, "max_pixels": None},
    ]
    assert ask(parts).media == (Medium(kind="image", written="a.jpg"),)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "image_url", "image_url": {"url": "https://host/a.jpg"}}, "is the URL 'https://host/a.jpg'"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 10_000}}, "is the URL"),
        ({"type": "image", "image": "file:///a.jpg"}, "save it as a file under media_root"),
        ({"type": "video", "video": ["1.jpg", "2.jpg"]}, "a list of frames; expected a path"),
        ({"type": "image", "image": ""}, "`image` is empty"),
        ({"type": "image"}, "`image` is null"),
        ({"type": "image_url", "image_url": {}}, "expected a path"),
        ({"type": "image", "image": "a.jpg", "max_pixels": 100}, "has max_pixels beside its image"),
        ({"type": "video", "video": "a.mp4", "fps": 1, "nframes": 2}, "has fps, nframes beside its video"),
        ({"type": "input_audio", "input_audio": {}}, "known are text, image, image_url, video, video_url"),
        ({"type": ["text"]}, "has `type` a list"),
        ({"type": "text", "text": 1}, "has `text` of kind a number"),
        ({"text": "a"}, "has `type` None"),
        ("a", "is a string, not an object"),
    ],
)
def test_refuses_other_parts(part: Any, message: str) -> None:
    text = complaint([{"type": "text", "text": "a"}, part])
    assert "`messages[0].content[1]`" in text
    assert message in text
    assert len(text) < 400


def test_refuses_other_contents_and_media_columns() -> None:
    assert "`messages[0].content` is null, neither a string nor a list of parts" in complaint(None)
    assert "`messages[0].content` is an object" in complaint({"type": "text"})
    assert "has media as parts" in complaint("a", images=["a.jpg"])


CALLS = [
    {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": "é", "y": [1, 2.5]}'}},
    {"id": "2", "type": "function", "function": {"name": "g", "arguments": {}}},
]


@pytest.mark.parametrize("content", [None, "", "Let me see."])
def test_tool_calls_are_written_as_the_published_template_does(content: str | None) -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": content, "tool_calls": CALLS},
        {"role": "tool", "content": "1", "tool_call_id": "1"},
        {"role": "tool", "content": [{"type": "image", "image": "plot.png"}], "tool_call_id": "2"},
        {"role": "assistant", "content": "done"},
    ]
    found = parse(messages)
    assert isinstance(found, Record)
    assert [turn.role for turn in found.turns] == ["user", "assistant", "tool", "tool", "assistant"]
    assert found.media == (Medium(kind="image", written="plot.png"),)
    environment = jinja2.Environment(autoescape=False)  # As transformers sets `tojson` up for chat templates.
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    parsed = [{"function": {"name": "f", "arguments": {"x": "é", "y": [1, 2.5]}}}, CALLS[1]]
    expected = environment.from_string(TEMPLATE).render(message={"content": content, "tool_calls": parsed})
    # The template writes the line end after the role before it; ours writes it after the role for every message.
    assert "\n" + found.turns[1].texts[0] == expected


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ({"function": {}}, "`tool_calls` of kind an object"),
        ([{"name": "f"}], "`messages[1].tool_calls[0]` has no `function`"),
        ([{"function": {"name": "f", "arguments": "{"}}], "a string that is no JSON object"),
        ([{"function": {"name": "f", "arguments": "[1]"}}], "`arguments` is a list"),
        ([{"function": {"name": "f"}}], "`arguments` is null"),
    ],
)
def test_refuses_broken_tool_calls(calls: Any, message: str) -> None:
    found = parse([{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": calls}])
    assert isinstance(found, tuple)
    assert message in found[0].message


def test_only_an_assistant_calls_tools_and_only_in_this_format() -> None:
    messages = [{"role": "user", "content": "a", "tool_calls": CALLS}, {"role": "assistant", "content": "b"}]
    found = parse(messages)
    assert isinstance(found, tuple)
    assert "its role is user" in found[0].message
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "tool_calls": CALLS}]
    other = parse_element(
        Element(line=1, index=0, value={"messages": messages}), path=Path("x"), format_name="sharegpt"
    )
    assert isinstance(other, tuple)
    assert "only the openai format has" in other[0].message
    assert isinstance(parse([{**messages[0], "tool_calls": None}, {**messages[1], "tool_calls": []}]), Record)
