"""The text of a record is read strictly, and what Python lets through is refused."""

from __future__ import annotations

import json

import pytest
from qvl_core.json_file import JsonError
from qvl_data.records.strict_json import NotUtf8Error, parse_record


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": 1, "a": 2}', "occurs twice"),
        (b'{"a": NaN}', "NaN is not"),
        (b'{"a": -Infinity}', "Infinity is not"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
        (b'{"\\udfff": 1}', "surrogate"),
        (b'{"a": "\xff"}', "byte 0xff at position 7"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "can be read"),
        (b'{"a" 1}', "column 6"),
        (b"", "not JSON"),
        (b"{} {}", "Extra data"),
    ],
)
def test_refuses_what_python_lets_through(text: bytes, message: str) -> None:
    with pytest.raises(JsonError, match=message) as caught:
        parse_record(text)
    assert len(str(caught.value)) < 400


def test_accepts_a_surrogate_pair_and_its_character() -> None:
    assert parse_record('["\\ud83d\\ude00", "😀"]'.encode()) == ["😀", "😀"]


def test_messages_name_line_and_column_in_the_file() -> None:
    with pytest.raises(JsonError, match=r"line 12, column 4"):
        parse_record(b'{"a": 1,\n"b"!}', line=11)
    with pytest.raises(JsonError, match=r"line 11, character 6 of the record"):
        parse_record(b'{"a" 1}', line=11, is_first_on_line=False)
    with pytest.raises(JsonError, match="position 1,007 of the file"):
        parse_record(b'{"a": "\xff"}', offset=1000)


def test_names_gbk_and_the_way_out() -> None:
    text = json.dumps({"问题": "图像数据"}, ensure_ascii=False).encode("gbk")
    with pytest.raises(NotUtf8Error, match="may be GBK") as caught:
        parse_record(text)
    assert caught.value.fix == "iconv -f GB18030 -t UTF-8 FILE > NEW_FILE"
    with pytest.raises(NotUtf8Error) as caught:
        parse_record(b'{"a": "r\xe9sum"}')
    assert caught.value.fix == ""  # Latin-1, in which the wrong advice would spoil the text.
