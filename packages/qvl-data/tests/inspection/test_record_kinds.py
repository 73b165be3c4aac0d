"""Each kind of wrong record, through the readers: their words are what kinds are told by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from data_files import llava
from qvl_data.inspection.record_kinds import record_kind
from qvl_data.records.element import Element
from qvl_data.records.formats import parse_element
from qvl_data.records.record import Record


def _kinds(value: Any, format_name: str = "llava") -> set[str]:
    found = parse_element(Element(line=1, index=0, value=value), path=Path("a.json"), format_name=format_name)
    assert not isinstance(found, Record), "the record is good"
    return {record_kind(problem) for problem in found}


def _turns(*roles: str) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": "text"} for role in roles]}


@pytest.mark.parametrize(
    "record",
    [
        _turns("human", "human", "gpt"),
        _turns("gpt"),
        _turns("human"),
        _turns("human", "gpt", "human"),
        _turns("bot", "gpt"),
        _turns("human", "gpt", "system"),
    ],
)
def test_roles(record: dict[str, Any]) -> None:
    assert _kinds(record) == {"role"}


@pytest.mark.parametrize("record", [llava("q", ""), llava("q", "  "), llava("", "a")])
def test_empty_texts(record: dict[str, Any]) -> None:
    assert _kinds(record) == {"empty"}


@pytest.mark.parametrize(
    "record",
    [
        llava("<image>", "a"),
        llava("q", "a", "x.png"),
        llava("<image><image>", "a", "x.png"),
        llava("<image>q", "a <image>", ["x.png", "y.png"]),
    ],
)
def test_placeholders(record: dict[str, Any]) -> None:
    assert _kinds(record) == {"placeholder"}


@pytest.mark.parametrize(
    "record", [5, {}, {"conversations": 5}, {"conversations": [5]}, _turns("human", "gpt") | {"image": 5}]
)
def test_not_of_the_format(record: Any) -> None:
    assert _kinds(record) == {"record"}


def test_wrong_part_of_a_message_is_not_a_role() -> None:
    message = {"role": "user", "content": [{"type": "sound", "text": "x"}]}
    assert _kinds({"messages": [message, {"role": "assistant", "content": "a"}]}, "openai") == {"record"}


def test_broken_element_is_a_wrong_record() -> None:
    found = parse_element(Element(line=1, index=0, error="not JSON: x"), path=Path("a.json"), format_name="llava")
    assert isinstance(found, tuple)
    assert {record_kind(problem) for problem in found} == {"record"}


@pytest.mark.parametrize(
    "objects",
    [
        {"bbox": [[5, 5, 1, 1]]},
        {"bbox": [["a"]]},
        {"boxes": []},
        {"bbox": [[0, 0, 1, float("inf")]]},
    ],
)
def test_boxes(objects: dict[str, Any]) -> None:
    assert "region" in _kinds({**llava("<image>?", "<box>", "x.png"), "objects": objects})
