"""The log of answers: what was written stays, a torn end is cut, everything else that is odd is refused."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path

import pytest
from qvl_core import disk
from qvl_core.errors import DiskError, OutputError
from qvl_eval.prediction_log import (
    LOG_NAME,
    AnswerCount,
    Prediction,
    PredictionLog,
    done_answers,
    gather,
    part_name,
)

ONE = Prediction(
    key="k1",
    index="1",
    category="digit 7",
    question="Wélche?\n\u2028",
    options={"A": "None"},
    answer="7",
    prediction="七\r\x0b",
    finish="stop",
    prompt_tokens=5,
    new_tokens=2,
    images=("ab",),
    sizes=((28, 56),),
)
TWO = dataclasses.replace(ONE, key="k2", index="2")
THREE = dataclasses.replace(ONE, key="k3", index="3", finish="refused", problem="too long")
KEYS = {"1": "k1", "2": "k2", "3": "k3"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with PredictionLog(tmp_path) as log:
        log.add([(ONE, 0.5), (TWO, 0.25)])
    return tmp_path


def test_reads_back_what_was_added(folder: Path) -> None:
    assert done_answers(folder, KEYS) == {"1": ONE, "2": TWO}


def test_no_file_means_no_answers(tmp_path: Path) -> None:
    assert done_answers(tmp_path / "none", KEYS) == {}


def test_replicas_append_to_files_of_their_own(folder: Path) -> None:
    with PredictionLog(folder, 2) as log:
        log.add([(THREE, 1.0)])
    assert part_name(2) == "predictions.002.jsonl"
    assert done_answers(folder, KEYS) == {"1": ONE, "2": TWO, "3": THREE}


def test_gathers_all_files_in_the_order_of_the_benchmark_and_keeps_the_seconds_apart(folder: Path) -> None:
    with PredictionLog(folder, 1) as log:
        log.add([(THREE, 1.0), (ONE, 9.0)])
    order = {"3": "k3", "1": "k1", "2": "k2"}
    gather(folder, order)
    assert sorted(path.name for path in folder.iterdir()) == [LOG_NAME, "times.jsonl"]
    rows = [json.loads(line) for line in (folder / LOG_NAME).read_bytes().splitlines()]
    assert [row["index"] for row in rows] == ["3", "1", "2"]
    assert not any("seconds" in row for row in rows)
    times = [json.loads(line) for line in (folder / "times.jsonl").read_text().splitlines()]
    assert [(row["index"], row["seconds"]) for row in times] == [("3", 1.0), ("1", 0.5), ("2", 0.25)]
    before = (folder / LOG_NAME).read_bytes(), (folder / "times.jsonl").read_bytes()
    gather(folder, order)
    assert ((folder / LOG_NAME).read_bytes(), (folder / "times.jsonl").read_bytes()) == before


def test_gathering_keeps_rows_beyond_the_limit(folder: Path) -> None:
    gather(folder, {"2": "k2"})
    assert list(done_answers(folder, KEYS)) == ["2", "1"]


@pytest.mark.parametrize("replica", [0, 1])
def test_a_kill_at_any_byte_costs_only_the_row_being_written(tmp_path: Path, replica: int) -> None:
    with PredictionLog(tmp_path, replica) as log:
        log.add([(ONE, 0.5), (TWO, 0.25)])
    path = tmp_path / part_name(replica)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole)):
        path.write_bytes(whole[:end])
        assert done_answers(tmp_path, KEYS) == {"1": ONE}
    gather(tmp_path, KEYS)
    assert (tmp_path / LOG_NAME).read_bytes().count(b"\n") == 1


def test_refuses_answers_of_another_protocol_or_counts_them_as_not_done(folder: Path) -> None:
    other = {**KEYS, "2": "another"}
    with pytest.raises(OutputError, match="other weights, data or settings") as caught:
        done_answers(folder, other)
    assert caught.value.problems[0].where.endswith("predictions.jsonl:2")
    assert list(done_answers(folder, other, drop_others=True)) == ["1"]


@pytest.mark.parametrize(
    "line", [b"not json", b"[]", b'{"index": "1"}', b'{"unknown": 1}', b"\xff", b'{"images": 3}', b'{"options": [1]}']
)
def test_refuses_a_broken_line_in_the_middle(folder: Path, line: bytes) -> None:
    path = folder / LOG_NAME
    path.write_bytes(line + b"\n" + path.read_bytes())
    with pytest.raises(OutputError, match=r"predictions\.jsonl:1: output\.dir\n  is not a prediction"):
        done_answers(folder, KEYS)


def test_refuses_a_value_of_another_type(folder: Path) -> None:
    path = folder / LOG_NAME
    path.write_bytes(path.read_bytes().replace(b'"new_tokens": 2', b'"new_tokens": "2"'))
    with pytest.raises(OutputError, match="wrong type: new_tokens"):
        done_answers(folder, KEYS)


def test_a_full_disk_is_told_and_leaves_no_part_of_a_row(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / LOG_NAME).read_bytes()

    def write_some(descriptor: int, data: bytes) -> int:
        if len(data) < 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(descriptor, data[:-50])

    with PredictionLog(folder) as log:
        monkeypatch.setattr(disk, "write", write_some)
        with pytest.raises(DiskError, match="No space left on device"):
            log.add([(THREE, 1.0)])
        assert (folder / LOG_NAME).read_bytes() == before
        monkeypatch.undo()
        log.add([(THREE, 1.0)])
    assert list(done_answers(folder, KEYS)) == ["1", "2", "3"]


def test_counts_the_answers_of_all_files_as_they_grow(folder: Path) -> None:
    count = AnswerCount(folder)
    assert count.update() == 2
    with PredictionLog(folder, 1) as log:
        log.add([(THREE, 1.0)])
        assert count.update() == 3
    assert count.update() == 3
