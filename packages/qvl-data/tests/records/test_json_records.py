"""Data files are read strictly, and every complaint has its line."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qvl_core.errors import DataError
from qvl_data.records.json_records import Element, iterate_elements, read_data_file


def elements(data: bytes) -> list[Element]:
    return list(iterate_elements(data, Path("x.json")))


def test_array_elements_carry_the_line_they_start_on() -> None:
    found = elements(b'[\n{"a": 1},\n\n{"a":\n2}\n,{"a": 3}]')
    assert [(e.line, e.index, e.value) for e in found] == [(2, 0, {"a": 1}), (4, 1, {"a": 2}), (6, 2, {"a": 3})]


def test_elements_on_one_line_are_told_apart() -> None:
    found = elements(b'[{"a": 1}, {"a": 2},\n{"a": 3}, {"a": 4}]')
    assert [e.where(Path("x.json")) for e in found] == ["x.json:1", "x.json:1[1]", "x.json:2", "x.json:2[3]"]


def test_json_lines_carry_their_line_and_skip_blank_lines() -> None:
    found = elements(b'{"a": 1}\n\n{"a": 2}\r\n{"a": 3}')
    assert [(e.line, e.index, e.value) for e in found] == [(1, 0, {"a": 1}), (3, 1, {"a": 2}), (4, 2, {"a": 3})]


@pytest.mark.parametrize("wrap", [b"%s\n", b"[\n%s\n]"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": 1, "a": 2}', "occurs twice"),
        (b'{"a": NaN}', "NaN is not"),
        (b'{"a": -Infinity}', "Infinity is not"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "can be read"),
        (b'{"a" 1}', "not JSON"),
    ],
)
def test_refuses_what_python_lets_through(wrap: bytes, text: bytes, message: str) -> None:
    found = elements(wrap % text)
    assert message in found[-1].error
    assert len(found[-1].error) < 400


def test_accepts_a_surrogate_pair_and_its_character() -> None:
    assert [e.value for e in elements('["\\ud83d\\ude00", "😀"]'.encode())] == ["😀", "😀"]


def test_json_lines_go_on_after_a_broken_line() -> None:
    found = elements(b'{"a": 1}\n{"a" 2}\n{"a": 3}\n')
    assert [bool(e.error) for e in found] == [False, True, False]
    assert found[1].line == 2
    assert "(column 6)" in found[1].error


def test_says_that_the_last_line_is_truncated() -> None:
    found = elements(b'{"a": 1}\n{"a": "tex')
    assert found[-1].line == 2
    assert "truncated" in found[-1].error


@pytest.mark.parametrize("data", [b'[{"a": 1},\n{"a": "te', b'[{"a": 1}', b'[{"a": 1},', b"["])
def test_says_that_an_array_is_truncated(data: bytes) -> None:
    last = elements(data)[-1]
    assert "truncated" in last.error or "not JSON" in last.error


def test_refuses_text_after_the_array() -> None:
    assert "after the end" in elements(b'[{"a": 1}]\n{"b": 2}')[-1].error


@pytest.mark.parametrize("data", [b'"text"', b"12", b"null", b'{\n"a": 1,\n"b": [2]\n}'])
def test_refuses_a_top_level_that_is_no_list(data: bytes) -> None:
    with pytest.raises(DataError, match=r"list of records|JSON Lines"):
        elements(data)


def test_skips_a_byte_order_mark_and_refuses_other_encodings(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"\xef\xbb\xbf[]")
    assert read_data_file(path) == b"[]"
    path.write_bytes("[]".encode("utf-16"))
    with pytest.raises(DataError, match="UTF-16"):
        read_data_file(path)
    path.write_bytes(json.dumps([{"a": "图像数据"}], ensure_ascii=False).encode("gbk"))
    assert "not UTF-8" in elements(read_data_file(path))[-1].error


@pytest.mark.parametrize("content", [b"", b" \n\t"])
def test_refuses_an_empty_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match="0 records"):
        read_data_file(path)


def test_refuses_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_data_file(tmp_path / "x.json")
    with pytest.raises(DataError):
        read_data_file(tmp_path)


TEXT = st.text('aé😀"\\\n{}[],', max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(st.dictionaries(TEXT, JSON, max_size=3), min_size=1, max_size=4), st.sampled_from([None, 1]))
@settings(max_examples=60, deadline=None)
def test_reads_what_json_writes(records: list[dict[str, object]], indent: int | None) -> None:
    found = elements(json.dumps(records, indent=indent).encode())
    assert [e.value for e in found] == records
    lines = "\n".join(json.dumps(record) for record in records).encode()
    assert [e.value for e in elements(lines)] == records


@given(st.binary(max_size=60), st.integers(0, 80))
@settings(max_examples=300, deadline=None)
def test_damaged_files_end_in_an_error_or_in_elements(noise: bytes, at: int) -> None:
    good = b'[{"conversations": [{"from": "human", "value": "\xc3\xa9"}]},\n{"a": 1}]'
    with contextlib.suppress(DataError):
        elements(good[:at] + noise + good[at:])
