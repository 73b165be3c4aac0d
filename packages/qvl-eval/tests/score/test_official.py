"""MMMU's rules for open questions, against a plain spelling of its three scans."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qvl_eval.score import score_row
from qvl_eval.score.official import _SCIENTIFIC, _SIMPLE, _WITH_COMMAS, matching_item, normalised, read_open

# The scans as docs/evaluate.md words them, without what makes ours fast.
PLAIN = (
    (_WITH_COMMAS, re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b")),
    (_SCIENTIFIC, re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+")),
    (_SIMPLE, re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])")),
)


@settings(deadline=None)
@given(st.text(alphabet="0123459.,eE+-x _\u0664\n", max_size=30))
def test_our_scans_find_what_the_plain_ones_find(text: str) -> None:
    for ours, plain in PLAIN:
        assert ours.findall(text) == plain.findall(text)


def open_score(reply: object, answer: object) -> float:
    return score_row("mmmu_dev_val", reply, answer, {}, "mmmu-official")


@pytest.mark.parametrize(
    ("reply", "items"),
    [
        ("1,200", [1200.0, 200.0]),
        ("about 1,200 people", ["about 1,200 people", 1200.0, 200.0]),
        ("costs 1.2e3", ["costs 1.2e3", 1200.0]),
        ("(2, 3)", ["(2, 3)", 3.0]),
        ("-4.5 and .5", ["-4.5 and .5", -4.5, 0.5]),
        ("x=7", [7.0]),
        ("x=7\ny is 8", [8.0]),
        ("y is 8\nx=7", [8.0, 7.0]),
        ("the answer is 5.\nso it is six.", [5.0, "six"]),
        ("it is: !", ["it is: !"]),
        ("the result is :", ["the result is :"]),
        ("it is ", ["it is"]),
        ("this is so ", ["so"]),
        ("Final Answer Blue", ["blue"]),
        ("...yes...", ["yes"]),
        ("C", [" c", "c "]),
        ("1_000", [1000.0]),
        ("3.145", [3.15]),
        ("inf", [math.inf]),
        ("", [""]),
        ("5 5 5", ["5 5 5", 5.0]),
        ("v2 of 3kg", ["v2 of 3kg", 2.0]),
    ],
)
def test_reads_texts_and_numbers(reply: str, items: list[object]) -> None:
    found = read_open(reply)
    assert [item for item in found if isinstance(item, str)] == [item for item in items if isinstance(item, str)]
    assert {item for item in items if isinstance(item, float)} <= set(found)


@pytest.mark.parametrize(
    ("reply", "answer", "score"),
    [
        ("0.004", "0.001", 1),
        ("2.675", "2.68", 0),
        ("24/7", "24", 1),
        ("24", "24/7", 0),
        ("anything", "", 1),
        ("7", "", 0),
        ("nan", "nan", 0),
        ("inf", "inf", 1),
        ("12,000", "12000", 1),
        ("12000 dollars", "12,000", 1),
        ("a transformer model", "Transformer", 1),
        ("transform", "Transformer", 0),
        ("x = 3.14159", "3.14", 1),
        ("3.1", "3.14", 0),
        ("abc", "b", 0),
        ("a b c", "b", 1),
        ("six", "['6', 'Six']", 1),
        ("7", "['6', 'Six']", 0),
        ("6", ["6", "six"], 1),
        ("(2, 3)", "(2, 3)", 1),
        (None, "None", 1),
        (7.0, "7", 1),
        ("-3", "3", 0),
    ],
)
def test_an_open_answer_is_right_by_number_or_text(reply: object, answer: object, score: float) -> None:
    assert open_score(reply, answer) == score


@settings(deadline=None)
@given(st.floats(allow_nan=False), st.sampled_from(["", "it is ", "so the final answer is "]))
def test_a_number_answers_itself(number: float, before: str) -> None:
    assert open_score(f"{before}{number!r}", repr(number)) == 1


@settings(deadline=None)
@given(st.text(max_size=30), st.lists(st.text(max_size=10), max_size=3))
def test_more_references_never_take_a_point_away(reply: str, references: list[str]) -> None:
    items = read_open(reply)
    if matching_item(items, references[:1]) is not None:
        assert matching_item(items, references) is not None


@settings(deadline=None)
@given(st.text(max_size=20))
def test_one_character_becomes_two_texts(text: str) -> None:
    items = normalised(text)
    assert len(items) == (2 if isinstance(items[0], str) and len(text.strip().lower()) == 1 else 1)
