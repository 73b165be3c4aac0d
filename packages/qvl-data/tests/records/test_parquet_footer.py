"""Our reader of Parquet footers says what pyarrow's says, and ends well on anything."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qvl_data.records.parquet_footer import FooterError, read_footer


def written(values: list[dict[str, Any]], **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(values), buffer, **options)
    return buffer.getvalue()


ROWS = [{"m": [{"role": "user", "n": i}], "a": "x" * i, "é": {"y": [1.5, None]}} for i in range(50)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"row_group_size": 3},
        {"version": "1.0", "use_dictionary": False},
        {"compression": "zstd", "write_statistics": False},
        {"write_page_index": True, "data_page_version": "2.0"},
    ],
)
def test_equals_what_pyarrow_says(tmp_path: Path, options: dict[str, Any]) -> None:
    data = written(ROWS, **options)
    expected = pq.ParquetFile(io.BytesIO(data)).metadata
    found = read_footer(io.BytesIO(data))
    assert len(found) == expected.num_row_groups
    for number, group in enumerate(found):
        theirs = expected.row_group(number)
        assert group.rows == theirs.num_rows
        columns = [theirs.column(i) for i in range(theirs.num_columns)]
        assert [".".join(column.path) for column in group.columns] == [each.path_in_schema for each in columns]
        assert [(column.values, column.bytes) for column in group.columns] == [
            (each.num_values, each.total_uncompressed_size) for each in columns
        ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PAR1", "4 bytes"),
        (b"PAR1" + bytes(20), "does not end"),
        (b"PAR1" + b"\xff\xff\xff\x7fPAR1", "footer has 2,147,483,647 bytes"),
        (b"PAR1" + b"\0\0\0\0PAR1", "breaks off"),
        (b"PAR1" + b"\0\1\0\0\0PAR1", "without the lists"),
        (b"PAR1" + b"\x1d\0\2\0\0\0PAR1", "the unknown kind 13"),
        (b"PAR1" + b"\x1c" * 100 + b"\x64\0\0\0PAR1", "nested too deeply"),
        (b"PAR1" + b"\x16" + b"\xff" * 12 + b"\x0d\0\0\0PAR1", "more than 64 bits"),
        (b"PAR1" + b"\x19\xfc\xff\xff\xff\x0f\x06\0\0\0PAR1", "breaks off"),
    ],
)
def test_refuses_what_is_no_footer(data: bytes, message: str) -> None:
    with pytest.raises(FooterError, match=message):
        read_footer(io.BytesIO(data))


def test_refuses_a_column_in_another_file() -> None:
    tail = written(ROWS[:1])
    found = pq.ParquetFile(io.BytesIO(tail)).metadata
    found.set_file_path("../other.parquet")
    footer = io.BytesIO()
    found.write_metadata_file(footer)
    with pytest.raises(FooterError, match="in another file"):
        read_footer(footer)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damage_ends_in_an_error_or_a_footer(data: st.DataObject) -> None:
    good = bytearray(written(ROWS[:2], row_group_size=1))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FooterError):
        read_footer(io.BytesIO(bytes(good)))
