"""JSON with lines: what stands where, and the mistakes that people make in the reference stack's files."""

from __future__ import annotations

import json

import pytest
from qvl_core.migrate.json_source import JsonSourceError, read_json_source

TEXT = '{\n  "a": {\n    "b": [1, 2.5, -3e2],\n    "c": null\n  },\n  "d": "x\\ny", "e": true\n}\n'


def test_values_equal_the_standard_readers_and_know_their_lines() -> None:
    source = read_json_source(TEXT)
    assert source.values == json.loads(TEXT)
    assert source.lines == {("a",): 2, ("a", "b"): 3, ("a", "c"): 4, ("d",): 6, ("e",): 6}
    assert [path for path, _ in source.leaves()] == [("a", "b"), ("a", "c"), ("d",), ("e",)]


def test_a_byte_order_mark_and_dos_line_ends_are_read() -> None:
    source = read_json_source('\ufeff{\r\n"a": 1,\r\n"b": 2}')
    assert (source.values, source.lines["b",]) == ({"a": 1, "b": 2}, 3)


def test_a_repeated_key_is_kept_with_both_lines_and_values() -> None:
    source = read_json_source('{\n"a": 1,\n"a": 2}')
    assert source.values == {"a": 2}
    assert source.repeated == ((("a",), (2, 1), (3, 2)),)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "is empty"),
        ("[1]", 1, "does not begin with {"),
        ('{\n"a": 1,\n}', 2, "a comma stands before }"),
        ('{\n"a": [1,\n2,]}', 3, "a comma stands before ]"),
        ('{\n"a": 1\n"b": 2}', 3, "a comma or }"),
        ('{\n"a": 1,\n// no\n"b": 2}', 3, "a comment"),
        ('{\n"a": {\n...\n}}', 3, "the guide's example"),
        ('{\n"a": {\n"b": 1', 3, "half of a file?"),
        ('{\n"a": "x\n"}', 2, "a text is not right"),
        ("{\n'a': 1}", 2, "a key in double quotes"),
        ('{\n"a": NaN}', 2, "a value"),
        ('{\n"a": 01}', 2, "a value"),
        ('{"a": 1} x', 1, "goes on after its end"),
        ('{"a":' * 100 + "1" + "}" * 100, 1, "nested too deeply"),
    ],
)
def test_broken_files_are_told_with_their_line(text: str, line: int, message: str) -> None:
    with pytest.raises(JsonSourceError, match=None) as caught:
        read_json_source(text)
    assert caught.value.line == line
    assert message in str(caught.value)


def test_comments_and_commas_too_many_are_told_all_at_once() -> None:
    text = '{ // one\n"a": [1,],\n/* two\n lines */ "b": {"c": "# no comment",\n} # three\n}'
    with pytest.raises(JsonSourceError) as caught:
        read_json_source(text)
    found = [*caught.value.before, (caught.value.line, str(caught.value))]
    assert [(line, message.partition(" stands")[0]) for line, message in found] == [
        (1, "a comment"),
        (2, "a comma"),
        (3, "a comment"),
        (4, "a comma"),
        (5, "a comment"),
    ]
    assert "take them out" in caught.value.fix


def test_what_ends_a_file_too_early_is_told_with_what_was_before() -> None:
    with pytest.raises(JsonSourceError) as caught:
        read_json_source('{"a": 1, # one\n"b": ')
    assert caught.value.before == ((1, "a comment stands there: JSON has none"),)
    assert "half of a file?" in str(caught.value)
