"""The log of answers: what was written stays, a torn end is cut, everything else that is odd is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from qvl_core.errors import OutputError
from qvl_eval.prediction_log import Prediction, PredictionLog, read_predictions

ONE = Prediction(
    protocol="p", index="1", category="digit 7", question="Wélche?\n", answer="7", prediction="七", new_tokens=2
)
TWO = dataclasses.replace(ONE, index="2")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "predictions.jsonl"
    with PredictionLog(path) as log:
        log.add([ONE, TWO])
    return path


def test_reads_back_what_was_added(path: Path) -> None:
    assert read_predictions(path, "p") == {"1": ONE, "2": TWO}


def test_no_file_means_no_answers(tmp_path: Path) -> None:
    assert read_predictions(tmp_path / "none.jsonl", "p") == {}


def test_appends_to_what_is_there(path: Path) -> None:
    with PredictionLog(path) as log:
        log.add([dataclasses.replace(ONE, index="3")])
    assert list(read_predictions(path, "p")) == ["1", "2", "3"]


def test_a_kill_at_any_byte_costs_only_the_row_being_written(path: Path) -> None:
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole)):
        path.write_bytes(whole[:end])
        assert list(read_predictions(path, "p")) == ["1"]
        assert path.read_bytes() == whole[:first]


def test_refuses_answers_of_another_protocol(path: Path) -> None:
    with pytest.raises(OutputError, match="other weights, data or settings") as caught:
        read_predictions(path, "q")
    assert caught.value.problems[0].where.endswith("predictions.jsonl:1")


@pytest.mark.parametrize("line", [b"not json", b"[]", b'{"index": "1"}', b'{"unknown": 1}', b"\xff"])
def test_refuses_a_broken_line_in_the_middle(path: Path, line: bytes) -> None:
    path.write_bytes(line + b"\n" + path.read_bytes())
    with pytest.raises(OutputError, match=r"predictions\.jsonl:1: output\.dir\n  is not a prediction"):
        read_predictions(path, "p")


def test_refuses_a_value_of_another_type(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"new_tokens": 2', b'"new_tokens": "2"'))
    with pytest.raises(OutputError, match="wrong type: new_tokens"):
        read_predictions(path, "p")
