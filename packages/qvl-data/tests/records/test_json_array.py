"""Arrays are read through a window: every element with its line and place, also where a record is broken."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qvl_core.errors import DataError
from qvl_data.records import text_file
from qvl_data.records.record_file import open_record_file
from qvl_data.records.strict_json import MAX_RECORD_BYTES
from record_samples import as_array, conversations, elements_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.json"


def test_elements_carry_the_line_they_start_on(path: Path) -> None:
    found = elements_of(path, b'[\n{"a": 1},\n\n{"a":\n2}\n,{"a": 3}]')
    assert [(e.line, e.index, e.value) for e in found] == [(2, 0, {"a": 1}), (4, 1, {"a": 2}), (6, 2, {"a": 3})]
    assert [e.where(Path("x.json")) for e in found] == ["x.json:2", "x.json:4", "x.json:6"]


def test_elements_on_one_line_are_told_apart(path: Path) -> None:
    found = elements_of(path, b'[{"a": 1}, {"a": 2},\n{"a": 3}, {"a": 4}]')
    assert [e.where(Path("x.json")) for e in found] == ["x.json:1", "x.json:1[1]", "x.json:2", "x.json:2[3]"]


@pytest.mark.parametrize("options", [{}, {"indent": 2}, {"indent": 300}, {"ensure_ascii": False}])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"  \r\n\n"])
def test_read_gives_each_element_again(path: Path, options: dict[str, object], start: bytes) -> None:
    records = conversations(20)
    found = elements_of(path, start + as_array(records, **options))
    assert [e.value for e in found] == records
    file = open_record_file(path)
    for element in reversed(found):
        assert element.place is not None
        assert file.read(element.place) == element


def test_windows_of_any_size_give_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qvl_data.records import json_array

    records = conversations(12)
    whole = elements_of(path, as_array(records, indent=1, ensure_ascii=False))
    for size in (1, 2, 3, 7, 64, 1000):
        monkeypatch.setattr(json_array, "CHUNK_BYTES", size)
        assert list(open_record_file(path).elements()) == whole


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": 1, "a": 2}', "occurs twice"),
        (b'{"a": NaN}', "NaN is not"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a" 1}', "line 2, column 6"),
        (b'{"a": 1]', "delimiter"),
        (b"{]", "Expecting"),
        (b"nul", "not JSON"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    ],
)
def test_reading_goes_on_after_a_broken_record(path: Path, text: bytes, message: str) -> None:
    found = elements_of(path, b"[\n%s,\n7\n]" % text)
    assert message in found[0].error
    assert (found[1].line, found[1].index, found[1].value, found[1].error) == (3, 1, 7, "")


@pytest.mark.parametrize("data", [b'[{"a": 1},\n{"a": "te', b'[{"a": 1}', b'[{"a": 1},', b"[", b"[{", b'["\\'])
def test_says_that_an_array_is_truncated(path: Path, data: bytes) -> None:
    assert "truncated" in elements_of(path, data)[-1].error


@pytest.mark.parametrize("data", [b"[,1]", b"[1,]", b"[1,,2]"])
def test_refuses_a_comma_without_a_record(path: Path, data: bytes) -> None:
    assert "expected a record; found" in elements_of(path, data)[-1].error


def test_refuses_text_after_the_array_and_between_records(path: Path) -> None:
    assert "after the end" in elements_of(path, b'[{"a": 1}]\n{"b": 2}')[-1].error
    assert "expected a comma or ]" in elements_of(path, b'[{"a": 1}{"b": 2}]')[-1].error
    assert elements_of(path, b"[1]\n\n") == elements_of(path, b"[1]")


def test_an_empty_array_has_no_elements(path: Path) -> None:
    assert elements_of(path, b" [ \n ] ") == []


def test_names_the_record_whose_bracket_is_missing(path: Path) -> None:
    found = elements_of(path, b'[\n{"a": 1},\n{"a": [1},\n' + b'{"a": 2},\n' * 50 + b"3]")
    assert found[0].value == {"a": 1}
    assert found[1].line == 3
    assert "line 3, column 9" in found[1].error
    assert "truncated" in found[2].error
    found = elements_of(path, b'[\n{"a": 1},\n{"a": {"b": 1,\n' + b'{"a": 2},\n' * 50 + b"3]")
    assert (found[1].line, "bracket or quote is missing" in found[1].error) == (3, True)
    assert "line 4, column 1" in found[1].error


def test_a_record_too_long_is_refused_with_a_short_message_and_the_next_one_read(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b'[{"a": "')
        for _ in range(MAX_RECORD_BYTES // 2**20 + 1):
            file.write(b"x" * 2**20)
        file.write(b'"}, 1]')
    first, *rest = open_record_file(path).elements()
    assert "longer than 16,777,216 bytes" in first.error
    assert len(first.error) < 300
    assert [e.value for e in rest] in ([], [1])


def test_memory_does_not_grow_with_the_file(path: Path) -> None:
    line = json.dumps({"a": "x" * 1000}).encode()
    with path.open("wb") as file:
        file.write(b"[" + line)
        for _ in range(32):
            file.write((b",\n" + line) * 1000)
        file.write(b"]")
    assert path.stat().st_size > 30 * text_file.CHUNK_BYTES
    tracemalloc.start()
    count = sum(1 for _ in open_record_file(path).elements())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 32_001
    # Two windows while one is moved, and what the matcher and parser of one record hold.
    assert peak < 6 * text_file.CHUNK_BYTES


def test_refuses_to_be_streamed_and_names_the_way_out(path: Path) -> None:
    path.write_bytes(b"[1]")
    with pytest.raises(DataError, match=r"qvl data convert .*x.json x.jsonl"):
        open_record_file(path).blocks(10)


TEXT = st.text('aé😀"\\\n{}[],', max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@given(records=st.lists(JSON, min_size=1, max_size=4), indent=st.sampled_from([None, 1]))
@settings(max_examples=80, deadline=None)
def test_reads_what_json_writes(
    tmp_path_factory: pytest.TempPathFactory, records: list[object], indent: int | None
) -> None:
    path = tmp_path_factory.getbasetemp() / "hypothesis.json"
    assert [e.value for e in elements_of(path, json.dumps(records, indent=indent).encode())] == records
