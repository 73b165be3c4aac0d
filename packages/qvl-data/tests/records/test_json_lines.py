"""JSON Lines: a record a line, each broken one named, found again at its place, cut into blocks without parsing."""

from __future__ import annotations

from pathlib import Path

import pytest
from qvl_core.errors import DataError
from qvl_data.records.record_file import open_record_file
from qvl_data.records.strict_json import MAX_RECORD_BYTES
from record_samples import as_lines, conversations, elements_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.jsonl"


def test_elements_carry_their_line_and_blank_lines_are_skipped(path: Path) -> None:
    found = elements_of(path, b'{"a": 1}\n\n  {"a": 2}\r\n \t\n{"a": 3}')
    assert [(e.line, e.index, e.value) for e in found] == [(1, 0, {"a": 1}), (3, 1, {"a": 2}), (5, 2, {"a": 3})]


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"\n\n"])
def test_read_gives_each_element_again(path: Path, start: bytes) -> None:
    found = elements_of(path, start + as_lines(conversations(20)))
    assert [e.value for e in found] == conversations(20)
    file = open_record_file(path)
    for element in reversed(found):
        assert element.place is not None
        assert file.read(element.place) == element


def test_reading_goes_on_after_a_broken_line(path: Path) -> None:
    found = elements_of(path, b'{"a": 1}\n{"a" 2}\n{"a": 3}\n')
    assert [bool(e.error) for e in found] == [False, True, False]
    assert found[1].line == 2
    assert "(column 6)" in found[1].error


def test_says_that_the_last_line_is_truncated(path: Path) -> None:
    found = elements_of(path, b'{"a": 1}\n{"a": "tex')
    assert found[-1].line == 2
    assert "truncated" in found[-1].error
    assert "truncated" not in elements_of(path, b'{"a": 1}\n{"a": "tex\n')[-1].error


def test_refuses_one_object_over_several_lines(path: Path) -> None:
    with pytest.raises(DataError, match=r"one object \(keys a, b\)"):
        elements_of(path, b'{\n"a": 1,\n"b": [2]\n}')


def test_a_line_too_long_is_refused_with_a_short_message_and_the_next_one_read(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b'{"a": 1}\n{"a": "')
        for _ in range(100):
            file.write(b"x" * 10**6)
        file.write(b'"}\n{"a": 2}\n')
    reader = open_record_file(path)
    first, long, last = reader.elements()
    assert (first.line, first.value, last.line, last.value) == (1, {"a": 1}, 3, {"a": 2})
    assert long.line == 2
    assert f"longer than {MAX_RECORD_BYTES:,} bytes" in long.error
    assert len(long.error) < 300
    assert long.place is not None
    assert reader.read(long.place) == long
    assert [each for block in reader.blocks(1) for each in reader.read_block(block)] == [first, long, last]


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_blocks_hold_all_records_in_order(path: Path, rows: int, end: bytes) -> None:
    data = b"\n\n" + as_lines(conversations(7)) + b'\r\n \r\n{"a" 1}\n{"a": 3}' + end
    found = elements_of(path, data)
    file = open_record_file(path)
    told: list[tuple[str, int, int]] = []
    blocks = file.blocks(rows, lambda *each: told.append(each))
    assert [block.rows for block in blocks] == [min(rows, 9 - start) for start in range(0, 9, rows)]
    assert [each for block in blocks for each in file.read_block(block)] == found
    assert [(block.line, block.index) for block in blocks] == [(e.line, e.index) for e in found[::rows]]
