"""Files are cut once, remembered as long as they do not change, and their rows read block by block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from data_files import llava, write_lines
from qvl_core.errors import DataError
from qvl_data.records.json_lines import JsonLinesFile
from qvl_data.records.record_file import open_record_files
from qvl_data.streaming import blocks
from qvl_data.streaming.blocks import cut, first_rows
from qvl_data.streaming.rows import Rows


def write(path: Path, count: int) -> Any:
    write_lines(path, [llava(f"{number}?", "a") for number in range(count)])
    (file,) = open_record_files(path)
    return file


def test_a_cut_is_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    whole = JsonLinesFile.blocks
    monkeypatch.setattr(JsonLinesFile, "blocks", lambda self, *given: reads.append(1) or whole(self, *given))
    first = cut(write(tmp_path / "a.jsonl", 600), cache_dir=tmp_path / "cache")
    again = cut(write(tmp_path / "b.jsonl", 600), cache_dir=tmp_path / "cache")
    assert len(reads) == 2
    assert first.digest == again.digest
    (file,) = open_record_files(tmp_path / "a.jsonl")
    known = cut(file, cache_dir=tmp_path / "cache")
    assert len(reads) == 2
    assert (known.blocks, known.digest) == (first.blocks, first.digest)
    assert [block.rows for block in known.blocks] == [256, 256, 88]
    changed = cut(write(tmp_path / "a.jsonl", 601), cache_dir=tmp_path / "cache")
    assert len(reads) == 3
    assert changed.digest != first.digest


def test_a_damaged_memory_is_said_and_the_file_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write(tmp_path / "a.jsonl", 3)
    first = cut(file, cache_dir=tmp_path / "cache")
    (memory,) = (tmp_path / "cache").iterdir()
    memory.write_text('{"version": 1')
    assert cut(file, cache_dir=tmp_path / "cache") == first
    assert "cannot be used" in caplog.text


def test_a_json_array_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[{}]")
    (file,) = open_record_files(tmp_path / "a.json")
    with pytest.raises(DataError, match="qvl data convert"):
        cut(file, cache_dir=tmp_path / "cache")


def test_rows_are_numbered_through_sources_and_cut_at_max_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "ROWS", 4)
    cuts = [cut(write(tmp_path / f"{name}.jsonl", 10), cache_dir=tmp_path / "cache") for name in "abc"]
    rows = Rows([(cuts[:2], 13), (cuts[2:], None)], kept=8)
    assert rows.block_rows == [[4, 4, 2, 3], [4, 4, 2]]
    assert rows.row(0).where == f"{tmp_path}/a.jsonl:1"
    assert rows.row(12).where == f"{tmp_path}/b.jsonl:3"
    assert (rows.row(13).where, rows.row(13).source) == (f"{tmp_path}/c.jsonl:1", 1)
    assert [len(first_rows(cuts[0].blocks, limit)) for limit in (None, 4, 5)] == [3, 1, 2]


def test_no_more_rows_are_held_than_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "ROWS", 4)
    rows = Rows([([cut(write(tmp_path / "a.jsonl", 100), cache_dir=tmp_path / "cache")], None)], kept=12)
    found = [rows.row(number).where for number in (*range(100), 3, 0)]
    assert found[0] == found[-1]
    assert sum(len(loading.elements or ()) for loading in rows._loaded.values()) <= 12
