"""Records of every format become turns; every broken one is named with file, line and the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from data_files import llava
from qvl_core.errors import DataError, Problem
from qvl_core.recipe.sections.data_sources import TagSection
from qvl_data.records.element import Element
from qvl_data.records.formats import parse_element
from qvl_data.records.record import Medium, Record

PATH = Path("d.json")


def parse(value: Any, format_name: str = "llava", **tags: str) -> Record | tuple[Any, ...]:
    given = TagSection(**tags) if tags else None
    return parse_element(Element(line=7, index=5, value=value), path=PATH, format_name=format_name, tags=given)


def complaint(value: Any, format_name: str = "llava", **tags: str) -> str:
    found = parse(value, format_name, **tags)
    assert isinstance(found, tuple)
    assert all(problem.where == "d.json:7" and problem.key == "record 5" for problem in found)
    return "\n".join(problem.message for problem in found)


def test_llava_with_image_string_list_none_and_several() -> None:
    one = parse(llava("<image>\nWhat?", "A cat", "a.jpg"))
    assert isinstance(one, Record)
    assert one.media == (Medium(kind="image", written="a.jpg"),)
    assert one.where == "d.json:7"
    assert [(turn.role, turn.texts) for turn in one.turns] == [("user", ("", "\nWhat?")), ("assistant", ("A cat",))]
    two = parse(llava("<image> and <image>?", "A", ["a.jpg", "b.jpg"]))
    assert isinstance(two, Record)
    assert two.turns[0].texts == ("", " and ", "?")
    for nothing in (None, "", []):
        text_only = parse({**llava("Hello", "Hi"), "image": nothing})
        assert isinstance(text_only, Record)
        assert text_only.media == ()


def test_sharegpt_with_system_and_several_turns() -> None:
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "<image>What?"},
        {"role": "assistant", "content": "A cat"},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes"},
    ]
    found = parse({"messages": messages, "images": ["a.jpg"]}, "sharegpt")
    assert isinstance(found, Record)
    assert [turn.role for turn in found.turns] == ["system", "user", "assistant", "user", "assistant"]


def turns(*roles: str) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": "x"} for role in roles]}


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (("gpt",), "message 0 is of the assistant; expected one of the user"),
        (("human", "human", "gpt"), "message 1 is of the user; expected one of the assistant"),
        (("human", "gpt", "gpt"), "message 2 is of the assistant"),
        (("human",), "the last message is not of the assistant"),
        (("human", "gpt", "human"), "the last message is not of the assistant"),
        (("system",), "the last message is not of the assistant"),
        (("human", "gpt", "system"), "message 2 is of the system"),
        (("human", "bot"), "known are human, gpt, system, observation, tool, function_call"),
        (("tool", "gpt"), "message 0 is of the tool; expected one of the user"),
        (("human", "observation", "gpt"), "message 1 is of the tool; expected one of the assistant"),
        (("human", "gpt", "observation"), "the last message is not of the assistant"),
        (("human", "gpt", "tool", "human", "gpt"), "message 3 is of the user; expected one of the assistant or a tool"),
        (("system", "system", "human", "gpt"), "message 1 is of the system"),
        (("human", "function_call", "gpt"), "message 2 is of the assistant; expected one of the user or a tool"),
    ],
)
def test_refuses_wrong_roles(roles: tuple[str, ...], message: str) -> None:
    assert message in complaint(turns(*roles))


@pytest.mark.parametrize(
    "roles",
    [
        ("human", "gpt"),
        ("system", "human", "gpt"),
        ("human", "gpt", "human", "gpt"),
        ("human", "function_call", "observation", "gpt"),
        ("human", "gpt", "tool", "tool", "gpt", "human", "gpt"),
    ],
)
def test_accepts_right_roles(roles: tuple[str, ...]) -> None:
    assert isinstance(parse(turns(*roles)), Record)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (llava("<image><image>", "a", "x.jpg"), "2 <image> marker(s) in the text, 1 image(s)"),
        (llava("Hello", "a", "x.jpg"), "0 <image> marker(s) in the text, 1 image(s)"),
        (llava("<image>", "a"), "1 <image> marker(s) in the text, 0 image(s)"),
        (llava("Hello", " \n"), "the answer is empty"),
        (llava(" ", "a"), "the user's message is empty"),
        (llava("Hello", "an <image>", "x.jpg"), "in a message of the assistant"),
        (llava("<video> what?", "a"), "1 <video> marker(s) in the text, 0 video(s)"),
        ({**llava("Hello", "a"), "video": "x.mp4"}, "0 <video> marker(s) in the text, 1 video(s)"),
        (llava("<image>", "a", {"path": "x"}), "expected a path or a list of paths"),
        (llava("<image>", "a", [""]), "expected a path or a list of paths"),
        ({**llava("Hello", "a"), "images": ["x.jpg"]}, "has `images`; the column read here is `image`"),
        ("text", "is a string, not an object"),
        ([], "is a list, not an object"),
        ({"messages": []}, "`conversations` is missing"),
        ({"conversations": []}, "`conversations` is empty"),
        ({"conversations": "x"}, "`conversations` is a string"),
        ({"conversations": ["x"]}, "`conversations[0]` is a string"),
        ({"conversations": [{"from": "human", "value": 1}]}, "`value` of kind a number"),
        ({"conversations": [{"from": "human"}]}, "`value` of kind null"),
    ],
)
def test_refuses_broken_records(value: Any, message: str) -> None:
    assert message in complaint(value)


def test_refuses_content_lists_and_single_image_key_in_sharegpt() -> None:
    content = [{"type": "text", "text": "x"}]
    assert "of kind a list" in complaint({"messages": [{"role": "user", "content": content}]}, "sharegpt")
    good = [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": "x"}]
    assert "has `image`; the column read here is `images`" in complaint(
        {"messages": good, "image": "x.jpg"}, "sharegpt"
    )


def test_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(DataError, match="known: llava, openai, sharegpt"):
        parse({}, "alpaca")


def test_the_message_stays_short_for_long_values() -> None:
    for value in ({"conversations": [{"from": "x" * 1_000_000, "value": "y"}]}, {"x" * 1_000_000: 1}, "x" * 1_000_000):
        assert len(complaint(value)) < 500


def test_an_element_that_cannot_be_read_keeps_its_error_and_fix() -> None:
    element = Element(line=7, index=5, error="not UTF-8", fix="iconv")
    found = parse_element(element, path=PATH, format_name="llava")
    assert found == (Problem(where="d.json:7", key="record 5", message="not UTF-8", fix="iconv"),)


def shape(record: Record | tuple[Any, ...]) -> list[tuple[str, tuple[str, ...]]]:
    assert isinstance(record, Record), record
    return [(turn.role, turn.texts) for turn in record.turns]


def test_videos_and_images_come_in_the_order_of_their_markers() -> None:
    value = {**llava("<video>then <image><image>", "a", ["1.jpg", "2.jpg"]), "video": "v.mp4"}
    found = parse(value)
    assert isinstance(found, Record)
    assert [(medium.kind, medium.written) for medium in found.media] == [
        ("video", "v.mp4"),
        ("image", "1.jpg"),
        ("image", "2.jpg"),
    ]
    assert found.turns[0].media == ("video", "image", "image")


def test_tags_rename_columns_and_roles() -> None:
    value = {
        "dialog": [
            {"speaker": "S", "says": "Be short."},
            {"speaker": "U", "says": "<image><video>"},
            {"speaker": "F", "says": "call()"},
            {"speaker": "O", "says": "result"},
            {"speaker": "A", "says": "done"},
        ],
        "pictures": ["a.jpg"],
        "clips": "a.mp4",
    }
    columns = {"messages": "dialog", "images": "pictures", "videos": "clips"}
    keys = {"role_tag": "speaker", "content_tag": "says"}
    roles = {"user_tag": "U", "assistant_tag": "A", "system_tag": "S", "observation_tag": "O", "function_tag": "F"}
    found = parse(value, "sharegpt", **columns, **keys, **roles)
    assert [role for role, _ in shape(found)] == ["system", "user", "assistant", "tool", "assistant"]
    assert isinstance(found, Record)
    assert [medium.written for medium in found.media] == ["a.jpg", "a.mp4"]


def test_the_reference_converters_attributes_read_llava_files_as_sharegpt() -> None:
    tags = {"messages": "conversations", "images": "image", "role_tag": "from", "content_tag": "value"}
    value = llava("<image>What?", "A cat", "a.jpg")
    assert parse(value, "sharegpt", **tags, user_tag="human", assistant_tag="gpt") == parse(value)


def test_a_role_that_was_renamed_has_its_old_name_no_more() -> None:
    value = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    assert "known are gpt, system, observation, tool, function_call, me" in complaint(value, user_tag="me")
    tool = {"conversations": [{"from": role, "value": "x"} for role in ("human", "function_call", "tool", "gpt")]}
    assert isinstance(parse(tool), Record)
    assert "`conversations[2]` has `from` 'tool'" in complaint(tool, observation_tag="result")
    assert "`conversations[1]` has `from` 'function_call'" in complaint(tool, function_tag="call")
    assert "`conversations[3]` has `from` 'gpt'" in complaint(tool, assistant_tag="me")


def test_a_system_column_is_read_where_it_is_named_and_the_messages_have_none() -> None:
    value = {**llava("a", "b"), "system": "Be short."}
    assert "read only where it is named" in complaint(value)
    assert shape(parse(value, system="system"))[0] == ("system", ("Be short.",))
    own = {"conversations": [{"from": "system", "value": "mine"}, *value["conversations"]], "rules": "Be short."}
    assert shape(parse(own, system="rules"))[0] == ("system", ("mine",))
    for nothing in (None, ""):
        assert shape(parse({**llava("a", "b"), "system": nothing}, system="system"))[0][0] == "user"
    assert "`system` is a list" in complaint({**llava("a", "b"), "system": []}, system="system")


@pytest.mark.parametrize("format_name", ["sharegpt", "openai"])
@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"tools": [{"type": "function"}]}, "has `tools`"),
        ({"tools": '[{"name": "f"}]'}, "has `tools`"),
        ({"audios": ["a.wav"]}, "cannot hear"),
        ({"image": "a.jpg"}, "has `image`"),
    ],
)
def test_refuses_columns_that_would_be_left_out_in_silence(
    format_name: str, extra: dict[str, Any], message: str
) -> None:
    value = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    assert message in complaint({**value, **extra}, format_name)
    empty = {key: type(given)() for key, given in extra.items()}
    assert isinstance(parse({**value, **empty, "id": 1}, format_name), Record)


def test_refuses_answers_that_another_tool_would_not_learn() -> None:
    for key, off, on in (("weight", 0, 1), ("loss", False, True)):
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", key: off}]
        assert f"`messages[1]` has `{key}`" in complaint({"messages": messages}, "sharegpt")
        messages[1][key] = on  # type: ignore[assignment]
        assert isinstance(parse({"messages": messages}, "sharegpt"), Record)


def test_names_the_format_that_a_record_seems_to_have() -> None:
    found = parse({"messages": [{"role": "user", "content": "a"}]})
    assert isinstance(found, tuple)
    assert found[0].fix == 'format = "sharegpt" (qvl data convert: --format sharegpt)'
    content = [{"type": "text", "text": "x"}]
    found = parse({"messages": [{"role": "user", "content": content}]}, "sharegpt")
    assert isinstance(found, tuple)
    assert found[0].fix.startswith('format = "openai"')
