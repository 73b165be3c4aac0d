"""Parquet rows become the same records as JSON; damaged and oversized files are refused before they are decoded."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from qvl_core.errors import DataError, InputChangedError, NotInstalledError, Problem
from qvl_data.records import parquet
from qvl_data.records.element import Unread
from qvl_data.records.formats import parse_element
from qvl_data.records.record import Medium, Record
from qvl_data.records.record_file import RecordFile, open_record_file

MESSAGES = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "é😀"}]


def rows(count: int) -> list[dict[str, Any]]:
    return [{"messages": MESSAGES, "images": [f"{i}.jpg"], "n": i} for i in range(count)]


def written(path: Path, values: Any, **options: Any) -> RecordFile:
    table = values if isinstance(values, pa.Table) else pa.Table.from_pylist(values)
    pq.write_table(table, path, **options)
    return open_record_file(path)


@pytest.mark.parametrize("group", [1, 3, 100])
def test_rows_are_given_in_order_and_again_at_their_place(tmp_path: Path, group: int) -> None:
    file = pickle.loads(pickle.dumps(written(tmp_path / "x", rows(10), row_group_size=group)))
    found = list(file.elements())
    assert [e.value for e in found] == rows(10)
    assert [(e.line, e.index, e.where(Path("x"))) for e in found[:2]] == [(1, 0, "x:1"), (2, 1, "x:2")]
    for element in reversed(found):
        assert file.read(element.place) == element
    blocks = file.blocks(4)
    assert all(block.rows <= min(4, group) for block in blocks)
    assert [each for block in blocks for each in file.read_block(block)] == found


def test_batches_continue_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_BATCH_ROWS", 3)
    file = written(tmp_path / "x", rows(10), row_group_size=8)
    found = list(file.elements())
    assert [e.line for e in found] == list(range(1, 11))
    assert [file.read(e.place) for e in found] == found
    assert [e for block in file.blocks(5) for e in file.read_block(block)] == found


def test_a_row_becomes_a_record_and_absent_values_are_none(tmp_path: Path) -> None:
    file = written(tmp_path / "x", [*rows(1), {"messages": MESSAGES, "images": None}])
    first, second = (parse_element(e, path=file.path, format_name="sharegpt") for e in file.elements())
    assert isinstance(first, Record)
    assert first.media == (Medium(kind="image", written="0.jpg"),)
    assert isinstance(second, tuple)
    assert second[0].where.endswith("x:2")
    assert "1 <image> marker(s) in the text, 0 image(s)" in second[0].message


def test_messages_may_be_a_column_of_json_texts(tmp_path: Path) -> None:
    text = '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]'
    file = written(tmp_path / "x", [{"messages": text}, {"messages": '[{"role"'}, {"messages": "a"}])
    good, broken, wrong = (parse_element(e, path=file.path, format_name="sharegpt") for e in file.elements())
    assert isinstance(good, Record)
    assert not isinstance(broken, Record)
    assert "no JSON list" in broken[0].message
    assert not isinstance(wrong, Record)
    assert "`messages` is a string" in wrong[0].message


def test_missing_columns_are_named_with_those_that_are_there(tmp_path: Path) -> None:
    file = written(tmp_path / "x", [{"text": "a", "label": 1}])
    (found,) = (parse_element(e, path=file.path, format_name="sharegpt") for e in file.elements())
    assert not isinstance(found, Record)
    assert "`messages` is missing" in found[0].message
    assert "Keys found: label, text" in found[0].message


def test_images_inside_the_file_are_not_decoded_and_the_way_out_is_named(tmp_path: Path) -> None:
    image = pa.array([{"bytes": b"x", "path": "a"}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    table = pa.table({"messages": pa.array([MESSAGES]), "images": pa.array([[{"bytes": b"x", "path": "a"}]])})
    file = written(tmp_path / "x", table.append_column("image", image))
    (element,) = file.elements()
    assert isinstance(element.value["images"], Unread)
    assert isinstance(element.value["image"], Unread)
    assert file.read(element.place) == element
    found = parse_element(element, path=file.path, format_name="sharegpt")
    assert isinstance(found, tuple)
    problems: tuple[Problem, ...] = found
    assert "a column of bytes (list<" in problems[0].message
    assert "write the images as files" in problems[0].fix


def test_a_place_of_another_file_is_noticed(tmp_path: Path) -> None:
    place = list(written(tmp_path / "x", rows(10)).elements())[-1].place
    with pytest.raises(InputChangedError, match="holds 9 rows, and row 10 was there before"):
        written(tmp_path / "x", rows(9)).read(place)


def test_an_empty_table_has_no_elements(tmp_path: Path) -> None:
    assert list(written(tmp_path / "x", pa.table({"messages": pa.array([], pa.string())})).elements()) == []


@pytest.mark.parametrize("cut", [4, 10, 100, -1, -5, -100])
def test_refuses_a_truncated_file(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "x"
    written(path, rows(10))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        list(open_record_file(path).elements())


def test_refuses_repeated_columns_and_files_of_bytes_only(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="more than one column 'a'"):
        written(tmp_path / "x", pa.table([pa.array([1]), pa.array([2])], ["a", "a"]))
    with pytest.raises(DataError, match="no column of texts"):
        written(tmp_path / "x", pa.table({"a": pa.array([b"x"])}))


def test_refuses_row_groups_that_decode_to_too_much_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Costs some hundred bytes in the file: one value, repeated.
    bomb = pa.table({"a": pa.array(["x" * 1000]).take(pa.array([0] * 20_000))})
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 100_000)
    with pytest.raises(DataError, match=r"row group 0 decodes to 1\d\d,\d\d\d bytes; at most 100,000") as caught:
        written(tmp_path / "x", bomb)
    assert "row_group_size" in caught.value.problems[0].fix
    assert len(list(written(tmp_path / "x", bomb, row_group_size=10_000).elements())) == 20_000


def test_a_long_value_repeated_is_decoded_in_pieces_and_not_kept_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 10 * 1024**2)
    bomb = pa.table({"a": pa.array(["x" * 500_000]).take(pa.array([0] * 200))})
    file = written(tmp_path / "x", bomb)
    assert (tmp_path / "x").stat().st_size < 100_000
    assert isinstance(file, parquet.ParquetRecordFile)
    assert file.batches[0] * 500_000 <= 2 * parquet._BATCH_BYTES
    elements = file.elements()
    place = next(elements).place
    assert sum(1 for _ in elements) == 199
    with pytest.raises(DataError, match="row group 0 decodes to more than 10,485,760 bytes"):
        file.read(place)


def test_a_text_that_is_not_utf8_costs_its_row_only(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffb")]
    )
    found = list(written(tmp_path / "x", pa.table({"a": bad})).elements())
    assert [e.value for e in found] == [{"a": "a"}, None, {"a": "b"}]
    assert "the row cannot be read" in found[1].error


def test_the_cache_holds_the_last_groups_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path / "x", rows(10), row_group_size=1)
    places = [element.place for element in file.elements()]
    monkeypatch.setattr(parquet, "_CACHED_BYTES", 1)
    for place in places:
        file.read(place)
    assert isinstance(file, parquet.ParquetRecordFile)
    assert len(file.cache._tables) == 1


def test_says_what_to_install_where_pyarrow_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    written(path, rows(1))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(NotInstalledError, match="pip install 'pyarrow"):
        open_record_file(path)
