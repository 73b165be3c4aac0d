"""A hundred records of each source, read by the real readers, with media that are there or not."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path

import pytest
from qvl_core.cli.doctor import record_rows
from qvl_core.cli.doctor.row import Row
from qvl_core.recipe import load_recipe

pytest.importorskip("qvl_data", reason="the records are read by qvl-data")


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No deadlines: the machine that runs the tests may be slow."""
    monkeypatch.setattr(record_rows, "DEADLINE_S", 600.0)
    monkeypatch.setattr(record_rows, "_READING_S", 300.0)


def _png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 28, 28, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes(28 * 3) for _ in range(28)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _record(image: str = "x.png") -> dict[str, object]:
    turns = [{"from": "human", "value": "<image>what?"}, {"from": "gpt", "value": "a"}]
    return {"image": image, "conversations": turns}


def _look(records: list[object] | str) -> Row:
    text = records if isinstance(records, str) else json.dumps(records)
    Path("data.json").write_text(text)
    Path("media/x.png").write_bytes(_png())
    return record_rows.check_records(load_recipe("tiny.toml"), os.environ)


def test_records_that_can_be_read(folder: Path) -> None:
    row = _look([_record()] * 130)
    assert (row.level, row.evidence.startswith("100 record(s) of the first 130 of 1 source(s) can be read")) == (
        "ok",
        True,
    )


def test_some_that_cannot(folder: Path) -> None:
    row = _look([_record(), _record("gone.png"), {"conversations": 3}, _record("../outside.png")])
    assert (row.level, ": 3 cannot be used: " in row.evidence) == ("warn", True)
    assert "gone.png" in row.evidence


def test_none_that_can(folder: Path) -> None:
    row = _look([{"messages": []}] * 3)
    assert row.level == "fail"
    assert "preview" in row.fix


@pytest.mark.parametrize("text", ["", "no json", '[{"a": 1}, ', "\x00"])
def test_files_that_hold_none(folder: Path, text: str) -> None:
    assert _look(text).level in ("warn", "fail")


def test_no_record_at_all(folder: Path) -> None:
    assert _look([]).level == "fail"


def test_what_is_not_looked_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("data.json").unlink()
    recipe = load_recipe("tiny.toml")
    assert record_rows.check_records(recipe, os.environ).evidence == "an earlier check failed: recipe-files"
    monkeypatch.setattr(record_rows, "installed_version", lambda _: None)
    assert record_rows.check_records(recipe, os.environ).level == "skipped"


def _found(seen: int, read: int, wrong: int, *first: str) -> dict[str, object]:
    return {"seen": seen, "read": read, "wrong": wrong, "first": list(first)}


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (_found(0, 0, 1, "b.json: is broken"), "1 cannot be used, and 1 of the sources not at all: b.json: is broken"),
        (_found(80, 80, 80, "b.json:1: no turns"), "80 cannot be used, and 1 of the sources not at all: b.json:1"),
        ({**_found(0, 0, 0), "path": "b.json"}, "and 1 of the sources not at all: b.json holds no record"),
    ],
)
def test_a_good_source_does_not_hide_one_of_which_nothing_can_be_used(second: dict[str, object], said: str) -> None:
    row = record_rows._row([_found(100, 100, 0), second])
    assert (row.level, said in row.evidence) == ("fail", True), row
    assert ("get the files again" in row.fix) == (second["read"] == 0)


def test_a_few_wrong_records_of_each_source_are_a_warning() -> None:
    row = record_rows._row([_found(100, 100, 3, "a:1", "a:2", "a:3"), _found(80, 80, 79, "b:1")])
    assert (row.level, row.evidence.endswith("82 cannot be used: a:1; b:1; a:2")) == ("warn", True)


def test_an_empty_source_beside_a_good_one_is_named(folder: Path) -> None:
    Path("empty.jsonl").write_text("\n")
    text = Path("tiny.toml").read_text()
    assert text.count("sources = [") == 1
    Path("tiny.toml").write_text(text.replace("sources = [", 'sources = [{ path = "empty.jsonl" }, '))
    row = _look([_record()] * 3)
    assert (row.level, "empty.jsonl" in row.evidence) == ("fail", True), row
