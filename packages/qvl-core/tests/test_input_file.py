"""Reading what a user named: regular files of bounded size, strict JSON, printable messages."""

import os

import pytest
from qvl_core.errors import RecipeError, WeightsError
from qvl_core.input_file import printable, read_regular_file
from qvl_core.json_file import JsonError, parse_json, read_json_object


def test_reads_up_to_the_limit_and_not_beyond(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"1234")
    assert read_regular_file(path, limit=4) == b"1234"
    with pytest.raises(WeightsError, match="larger than the 3 bytes"):
        read_regular_file(path, limit=3)


def test_raises_the_callers_kind_of_error(tmp_path):
    with pytest.raises(RecipeError, match="no such file"):
        read_regular_file(tmp_path / "absent", limit=1, error_type=RecipeError)


def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "x")
    with pytest.raises(WeightsError, match="a named pipe"):
        read_regular_file(tmp_path / "x", limit=1)


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b'{"a": 1, "a": 1}', "'a' occurs twice"),
        (b'[{"a": {"b": 1, "b": 2}}]', "'b' occurs twice"),
        (b"[Infinity]", "Infinity"),
        (b"[-Infinity]", "-Infinity"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"{'a': 1}", "line 1, column 2"),
    ],
)
def test_refuses_json_that_python_would_bend(data, part):
    with pytest.raises(JsonError, match=part):
        parse_json(data)


def test_accepts_equal_keys_in_different_objects():
    assert parse_json(b'{"a": {"a": 1}, "b": [{"a": 2}]}') == {"a": {"a": 1}, "b": [{"a": 2}]}


def test_an_object_is_asked_for(tmp_path):
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(WeightsError, match="JSON list, not an object"):
        read_json_object(tmp_path / "x.json")


def test_messages_carry_no_control_characters():
    assert printable("a\x1b[31m\n\0é 中") == "a\\x1b[31m\\n\\x00é 中"
    assert len(printable("x" * 10_000)) == 200
