"""The worked examples of docs/evaluate.md."""

from __future__ import annotations

import pytest
from qvl_eval.score import extract_choice, score_row

RULES = ("vlmevalkit-2026-06", "vlmevalkit-2025-09", "vlmevalkit-legacy", "mindspeed", "mmmu-official")
PARTS = {"A": "chlorophyll", "B": "root", "C": "stem", "D": "leaf"}


@pytest.mark.parametrize(
    ("reply", "letters"),
    [
        ("B", "BBBBB"),
        ("The answer is B because the root takes up water from soil", "B-BBB"),
        ("The answer is a plant root", "ABBBB"),
        ("roots", "BBBB-"),
        ("**B**", "BBBB-"),
        ('"B"', "-----"),
    ],
)
def test_ai2d(reply: str, letters: str) -> None:
    assert "".join(extract_choice(reply, PARTS, rules) or "-" for rules in RULES) == letters


@pytest.mark.parametrize(
    ("reply", "reference", "scores"),
    [
        ("10.5", "10", "1111"),
        ("9.5", "10", "1100"),
        ("10.51", "10", "0011"),
        ("0.47", "47%", "1111"),
        ("1,000", "1000", "0000"),
        ("Yes.", "Yes", "0000"),
    ],
)
def test_chartqa(reply: str, reference: str, scores: str) -> None:
    found = [score_row("chartqa_test", reply, reference, None, rules) for rules in RULES[:4]]
    assert found == [float(score) for score in scores]


@pytest.mark.parametrize(
    ("reply", "reference", "score"),
    [("$1,000", "['1000']", 2 / 3), ("the total is 1000", "['1000']", 0), ("helo", "['hello', 'hallo']", 0.8)],
)
def test_docvqa(reply: str, reference: str, score: float) -> None:
    found = [score_row("docvqa_val", reply, reference, None, rules) for rules in RULES[:4]]
    assert found == [pytest.approx(score)] * 4


@pytest.mark.parametrize(
    ("reply", "scores"),
    [("A", "011100"), ("The answer is about 7", "010000"), ("it is 10.0", "111101"), ("110", "011100")],
)
def test_mmmu_open_question(reply: str, scores: str) -> None:
    names = (f"{RULES[0]}+mmmu-official", *RULES)
    found = [score_row("mmmu_dev_val", reply, "10", {}, rules) for rules in names]
    assert found == [float(score) for score in scores]
