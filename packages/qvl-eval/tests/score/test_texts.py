"""Relaxed accuracy of charts and ANLS of documents, rule by rule, and against plain spellings."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qvl_eval.score import score_row
from qvl_eval.score.anls import anls, edit_distance
from qvl_eval.score.references import references_of

RIGHT_ORDER = ("vlmevalkit-2026-06", "vlmevalkit-2025-09")
SWAPPED = ("vlmevalkit-legacy", "mindspeed")


@pytest.mark.parametrize(
    ("prediction", "answer", "score", "swapped"),
    [
        ("1.05", "1", 0, 1),
        ("0.95", "1", 0, 0),
        ("4.2", "4", 0, 1),
        ("3.8", "4", 0, 0),
        ("10.5", "10", 1, 1),
        ("0.105", "0.1", 1, 1),
        ("95", "100", 1, 0),
        ("9.5", "10", 1, 0),
        ("10.51", "10", 0, 1),
        ("0.0", "0", 0, 0),
        ("0", "0.0", 0, 0),
        ("0", "5", 0, 0),
        ("Yes.", "Yes", 0, 0),
        ("YES", "yes", 1, 1),
        ("  yes\n", "Yes", 1, 1),
        ("yes", " Yes", 0, 0),
        ("2%", "2", 0, 0),
        ("2%", "0.02", 1, 1),
        ("5%%", "0.05", 1, 1),
        ("%", "%", 1, 1),
        ("1,001", "1,000", 0, 0),
        ("1,000", "1,000", 1, 1),
        ("2015", "2014", 1, 1),
        ("nan", "nan", 0, 0),
        ("inf", "inf", 0, 0),
        ("-inf", "5", 0, 0),
        ("1e3", "1000", 1, 1),
        ("1_000", "1000", 1, 1),
        ("10.", "10", 1, 1),
        ("\uff11\uff10", "10", 1, 1),
        ("$5", "5", 0, 0),
        ("12 (approx)", "12", 0, 0),
        ("-5", "5", 0, 0),
        ("blue", "['red', 'Blue']", 1, 1),
        ("11", "['10', '11.4']", 1, 1),
        ("11", "[10, 11]", 1, 1),
        ("[10, 11]", "[10, 11]", 0, 0),
        ("[a]", "[a]", 1, 1),
        ("x", "[]", 0, 0),
        (None, "None", 1, 1),
        (math.nan, "nan", 0, 0),
        (10, "10", 1, 1),
        ("", "", 1, 1),
    ],
)
def test_relaxed_accuracy(prediction: object, answer: str, score: float, swapped: float) -> None:
    assert [score_row("chartqa_test", prediction, answer, None, rules) for rules in RIGHT_ORDER] == [score, score]
    assert [score_row("chartqa_test", prediction, answer, None, rules) for rules in SWAPPED] == [swapped, swapped]


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(0.96, 1.04), st.sampled_from(RIGHT_ORDER + SWAPPED))
def test_a_number_within_four_percent_is_right(number: float, factor: float, rules: str) -> None:
    near = number * factor
    if number and math.isfinite(near) and abs(number) > 1e-300:
        assert score_row("chartqa_test", repr(near), repr(number), None, rules) == 1


@settings(deadline=None)
@given(st.text(max_size=20), st.text(max_size=20))
def test_swapped_rules_are_the_right_ones_the_other_way_round(prediction: str, answer: str) -> None:
    # The prediction alone is stripped, so texts without blanks at their ends; and no list literal.
    prediction, answer = (text.strip().lstrip("[") for text in (prediction, answer))
    there = score_row("chartqa_test", prediction, answer, None, "vlmevalkit-2026-06")
    assert there == score_row("chartqa_test", answer, prediction, None, "mindspeed")


@pytest.mark.parametrize(
    ("prediction", "answer", "score"),
    [
        ("abcd", "abxy", 0.5),
        ("abcde", "abxyz", 0.0),
        ("ABC", "abc", 1.0),
        ("a  b\tc", "a b c", 1.0),
        ("the answer", "answer", 0.6),
        ("xyz" + " " * 20, "abc", 1 - 3 / 23),
        ("abc ", "abc", 1.0),
        ("abx  ", "abc", 0.8),
        ("\ufb01x", "\ufb01y", 1 - 1 / 3),
        ("stra\u00dfe", "strasse", 1 - 2 / 7),
        ("", "", 1.0),
        ("", "abc", 0.0),
        ("  ", "", 1.0),
        ("b", "['a', 'b']", 1.0),
        ("b", ["a", "b"], 1.0),
        ("b", "[]", 0.0),
        ("12", "[12, 13]", 1.0),
        ("[12", "[12", 1.0),
        ("it's", "['it\\'s']", 1.0),
        ("a\\d", "['a\\\\d']", 1.0),
        (None, "none", 1.0),
    ],
)
@pytest.mark.parametrize("rules", RIGHT_ORDER + SWAPPED)
def test_anls_as_upstream(prediction: object, answer: object, score: float, rules: str) -> None:
    assert score_row("docvqa_val", prediction, answer, None, rules) == pytest.approx(score, abs=1e-12)


def table_distance(first: str, second: str) -> int:
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        last, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]


@settings(deadline=None)
@given(st.text("abc\u00e9", max_size=70), st.text("abc\u00e9", max_size=70), st.integers(0, 80))
def test_the_distance_is_that_of_the_plain_table(first: str, second: str, limit: int) -> None:
    wanted = table_distance(first, second)
    assert edit_distance(first, second, limit=200) == wanted
    assert edit_distance(first, second, limit=limit) == (wanted if wanted <= limit else limit + 1)


@settings(deadline=None)
@given(st.text(max_size=30), st.lists(st.text(max_size=30), min_size=1, max_size=4))
def test_anls_is_the_best_of_the_references(prediction: str, references: list[str]) -> None:
    def plain(reference: str) -> float:
        length = max(len(reference.upper()), len(prediction.upper()))
        texts = (" ".join(text.lower().split()) for text in (reference, prediction))
        return 1 - table_distance(*texts) / length if length else 1.0

    best = max(map(plain, references))
    assert anls(prediction, references) == (best if best >= 0.5 else 0.0)


def test_long_texts_are_compared() -> None:
    # The plain table would have 1,600,000,000 cells.
    first = "".join(chr(97 + i * i % 23) for i in range(40_000))
    second = first[:10_000] + "#" + first[10_000:30_000] + first[30_007:]
    assert edit_distance(first, second, limit=40_000) == 8
    assert anls(first, [second]) == pytest.approx(1 - 8 / 40_000)
    assert anls(first, [first[::-1], "short"]) <= 1


@pytest.mark.parametrize(
    ("answer", "references"),
    [
        ("['a', 'b']", ("a", "b")),
        (" ['a']", ("a",)),
        ("a", ("a",)),
        ("('a', 'b')", ("('a', 'b')",)),
        ("{'a': 1}", ("{'a': 1}",)),
        ("[open('x')]", ("[open('x')]",)),
        ("[" * 5000, ("[" * 5000,)),
        ("[1, None]", ("1", "None")),
        (None, ("None",)),
        (("a", 1), ("a", "1")),
    ],
)
def test_only_a_list_literal_has_several_references(answer: object, references: tuple[str, ...]) -> None:
    assert references_of(answer) == references
