"""Judged rows: how MMMU's rows, strange names and unread replies are treated."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qvl_eval.score import RULE_SETS, score_row
from qvl_eval.score.judge import judge
from qvl_eval.score.judged import AnsweredRow
from qvl_eval.score.rule_sets import fitting_rules, headline_rules

UPSTREAM = ("vlmevalkit-2026-06", "vlmevalkit-2025-09", "vlmevalkit-legacy")
MIXED = "vlmevalkit-2026-06+mmmu-official"
PARTS = {"A": "chlorophyll", "B": "root", "C": "stem", "D": "leaf"}


def answered(prediction: str, answer: str, **columns: Any) -> AnsweredRow:
    return AnsweredRow(index="validation_Art_1", prediction=prediction, answer=answer, **columns)


@pytest.mark.parametrize(
    ("reply", "answer", "legacy", "latest"),
    [
        ("A", "10", 1, 1),
        ("B", "10", 0, 0),
        ("110", "10", 1, 1),
        ("3.1416", "3.14", 1, 1),
        ("3.14", "3.1416", 0, 0),
        ("Other Answers", "10", 0, 0),
        ("The answer is about 7", "10", 0, 1),
        ("B", "B", 1, 1),
        ("C", "C", 0, 0),
        ("A", "A", 1, 1),
        ("6", "['6', 'six']", 0, 0),
        ("a", "a", 1, 1),
        ("A", "AB", 1, 1),
        ("x", "", 0, 0),
    ],
)
def test_vlmevalkit_makes_an_open_question_one_with_two_options(
    reply: str, answer: str, legacy: float, latest: float
) -> None:
    assert score_row("mmmu_dev_val", reply, answer, {}, "vlmevalkit-legacy") == legacy
    assert score_row("mmmu_dev_val", reply, answer, None, "vlmevalkit-2026-06") == latest
    assert score_row("mmmu_dev_val", reply, answer, {}, "mindspeed") == 0


def test_vlmevalkit_takes_a_row_without_a_first_option_for_an_open_one() -> None:
    options = {"A": None, "B": "b text", "C": "c text"}
    assert score_row("mmmu_dev_val", "C", "C", options, "vlmevalkit-2026-06") == 1
    assert score_row("mmmu_dev_val", "b text", "B", options, "vlmevalkit-2026-06") == 0
    assert score_row("mmmu_dev_val", "b text", "B", options, "mindspeed") == 1
    # AI2D's row 83301 has no A, and is no open question.
    assert score_row("ai2d_test", "b text", "B", options, "vlmevalkit-2026-06") == 1


def test_vlmevalkit_takes_any_answer_but_one_capital_for_a() -> None:
    assert [score_row("mmmu_dev_val", "A", "b", PARTS, rules) for rules in UPSTREAM] == [1, 1, 1]
    assert score_row("ai2d_test", "A", "b", PARTS, "vlmevalkit-2026-06") == 0
    assert score_row("mmmu_dev_val", "A", "b", PARTS, "mindspeed") == 0


def test_the_mixed_rules_read_options_as_vlmevalkit_and_open_questions_as_mmmu() -> None:
    assert score_row("mmmu_dev_val", "A", "10", {}, MIXED) == 0
    assert score_row("mmmu_dev_val", "it is 10.0", "10", {}, MIXED) == 1
    assert score_row("mmmu_dev_val", "B) root", "B", PARTS, MIXED) == 1
    assert score_row("mmmu_dev_val", "B) root", "B", PARTS, "mmmu-official") == 0
    typed = answered("root", "root", options=PARTS, question_type="open")
    assert judge("mmmu_dev_val", typed, MIXED).score == 1
    assert judge("mmmu_dev_val", typed, MIXED).rule == "open question: text"


@pytest.mark.parametrize("name", ["AI2D_TEST", "ai2d_test", "Ai2d_Test"])
def test_a_benchmarks_name_is_taken_in_any_case(name: str) -> None:
    assert score_row(name, "B", "B", PARTS, "mindspeed") == 1


@pytest.mark.parametrize(
    ("benchmark", "rules", "message"),
    [
        ("chartqa_test", "mmmu-official", "no scoring rules 'mmmu-official' for chartqa_test; there is: vlmeval"),
        ("ai2d_test", "exact", "no scoring rules 'exact' for ai2d_test"),
        ("digits_test", "mindspeed", "no scoring rules 'mindspeed' for digits_test; there is: exact"),
        ("mmbench", "mindspeed", "no benchmark 'mmbench'; there is: ai2d_test"),
    ],
)
def test_refuses_rules_that_do_not_fit(benchmark: str, rules: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_row(benchmark, "1", "1", {}, rules)


def test_a_documents_answer_is_stripped_unless_upstreams_value_is_wanted() -> None:
    row = answered("xyz" + " " * 20, "abc")
    assert judge("docvqa_val", row, "mindspeed").score == 0
    assert judge("docvqa_val", row, "mindspeed", as_upstream=True).score == pytest.approx(1 - 3 / 23)
    assert judge("docvqa_val", row, "mindspeed").row is row


@pytest.mark.parametrize(
    ("benchmark", "row", "rules", "extracted", "rule", "failed"),
    [
        ("ai2d_test", answered("B", "B", options=PARTS), "mindspeed", "B", "letter token", False),
        ("ai2d_test", answered("roots", "B", options=PARTS), "mindspeed", "B", "option text", False),
        ("ai2d_test", answered("?", "B", options=PARTS), "mindspeed", None, "no option found", True),
        ("ai2d_test", answered("root, leaf", "B", options=PARTS), "mindspeed", None, "several option texts", True),
        ("ai2d_test", answered("Z", "B", options=PARTS), "mindspeed", "Z", "refusal", True),
        ("ai2d_test", answered("answer is *b but who", "B", options=PARTS), UPSTREAM[0], "B", "answer is", False),
        ("ai2d_test", answered("(B)!x", "B", options=PARTS), "mmmu-official", "B", "letter in brackets", False),
        ("ai2d_test", answered("say B ok", "B", options=PARTS), "mmmu-official", "B", "letter between blanks", False),
        ("ai2d_test", answered("?", "B", options={"B": "x"}), "mmmu-official-random", "B", "drawn option", True),
        ("chartqa_test", answered(" 5% ", "0.05"), "mindspeed", "5%", "number", False),
        ("chartqa_test", answered("blue", "red"), "mindspeed", "blue", "text", False),
        ("chartqa_test", answered(" ", "red"), "mindspeed", None, "empty answer", True),
        ("docvqa_val", answered(" Abc", "abc"), "mindspeed", "Abc", "same text", False),
        ("docvqa_val", answered("abcx", "abc"), "mindspeed", "abcx", "similar text", False),
        ("docvqa_val", answered("x", "abc"), "mindspeed", "x", "other text", False),
        ("docvqa_val", answered("", "abc"), "mindspeed", None, "empty answer", True),
        (
            "mmmu_dev_val",
            answered("7 or 8", "10"),
            MIXED,
            "7 or 8; 7.0; 8.0",
            "open question: no equal number or text",
            False,
        ),
        ("mmmu_dev_val", answered("is 10", "10"), MIXED, "10.0", "open question: number", False),
        ("mmmu_dev_val", answered("", "10"), MIXED, None, "empty answer", True),
        ("digits_test", answered(" 7", "7"), "exact", "7", "same text", False),
    ],
)
def test_tells_what_was_read_by_which_rule(
    benchmark: str, row: AnsweredRow, rules: str, extracted: str | None, rule: str, failed: bool
) -> None:
    judged = judge(benchmark, row, rules)
    assert (judged.extracted, judged.rule, judged.failed, judged.rules) == (extracted, rule, failed, rules)


ODD = st.one_of(st.none(), st.floats(), st.integers(), st.booleans(), st.text(max_size=20), st.lists(st.text()))


@settings(deadline=None)
@given(
    st.sampled_from(["AI2D_TEST", "chartqa_test", "docvqa_val", "mmmu_dev_val"]),
    ODD,
    ODD,
    st.one_of(st.none(), st.dictionaries(st.one_of(st.sampled_from("ABCDab"), st.text(max_size=2)), ODD, max_size=5)),
)
def test_any_input_has_a_score_from_0_to_1(
    benchmark: str, prediction: object, answer: object, options: dict[str, object] | None
) -> None:
    for rules in fitting_rules(benchmark):
        assert 0 <= score_row(benchmark, prediction, answer, options, rules) <= 1


def test_every_rule_set_scores_what_it_fits() -> None:
    for benchmark in ("ai2d_test", "chartqa_test", "docvqa_val", "mmmu_dev_val"):
        assert headline_rules(benchmark)[0] in fitting_rules(benchmark)
        for rules in fitting_rules(benchmark):
            assert RULE_SETS[rules].title
            assert score_row(benchmark, "A", "A", {"A": "x"}, rules) == 1
    assert set(UPSTREAM) | {"mindspeed", "mmmu-official"} <= set(fitting_rules("mmmu_dev_val"))
    assert headline_rules("mmmu_dev_val") == (MIXED, "vlmevalkit-2026-06", "mmmu-official")
