"""What the first answers tell: broken set-ups are stopped with the numbers, sound ones and few rows are not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from qvl_eval.prediction_log import Prediction
from qvl_eval.preflight import FEWEST, FirstAnswers, PreflightError, faults, require_sound
from qvl_eval.score.judged import AnsweredRow, Judged


def first(texts: Sequence[str], *, failed: int = 0, score: float = 0.0, finish: str = "stop") -> FirstAnswers:
    rows = [AnsweredRow(index=str(n), answer="AB"[n % 2], prediction=text) for n, text in enumerate(texts)]
    return FirstAnswers(
        predictions=[
            Prediction(
                key="",
                index=row.index,
                question="q",
                answer=row.answer,
                prediction=row.prediction,
                finish=finish,
                prompt_tokens=1,
                new_tokens=1,
                problem="too long" if finish == "refused" else "",
            )
            for row in rows
        ],
        judged=[
            Judged(row=row, rules="r", score=score, extracted=None, rule="", failed=number < failed)
            for number, row in enumerate(rows)
        ],
    )


def texts_of(answers: FirstAnswers, max_failed: float = 0.9, new: int = 64, *, is_plain: bool = False) -> str:
    found = faults(answers, max_failed=max_failed, max_new_tokens=new, is_plain=is_plain)
    return "; ".join(fault.text for fault in found if fault.stops)


SOUND = [f"answer {number}" for number in range(16)]


@pytest.mark.parametrize(
    ("bad", "good", "message"),
    [
        (first([" \n"] * 16, failed=16), first([*SOUND[:15], ""], failed=1), "all 16 answers are empty"),
        (first(SOUND, failed=15), first(SOUND, failed=14), "out of 15 of 16 answers: 94 %, more than 90 %"),
        (first(["x"] * 16), first(["x"] * 16, score=1.0), "are the same, to 2 different references, and wrong"),
        (first(SOUND, finish="length"), first(SOUND), "were cut at 64 new tokens"),
        (first([""] * 16, finish="refused"), first(SOUND), "none of 16 rows can be asked: too long"),
    ],
)
def test_a_broken_set_up_is_told_with_its_numbers_and_its_neighbour_is_not(
    bad: FirstAnswers, good: FirstAnswers, message: str
) -> None:
    assert message in texts_of(bad)
    assert texts_of(good) == ""


def test_few_answers_prove_nothing() -> None:
    assert texts_of(first([""] * (FEWEST - 1), failed=FEWEST - 1)) == ""
    assert texts_of(first([""] * FEWEST, failed=FEWEST))


def test_answers_that_were_meant_to_be_short_may_all_be_cut() -> None:
    assert texts_of(first(SOUND, finish="length"), new=4) == ""


def test_the_share_is_the_recipes() -> None:
    assert texts_of(first(SOUND, failed=14), max_failed=0.5)
    assert texts_of(first(SOUND, failed=16), max_failed=1.0) == ""


def test_a_models_own_benchmark_is_only_warned_of_answers_that_are_all_the_same() -> None:
    same = first(["x"] * 16, finish="length")
    assert texts_of(same, is_plain=True) == ""
    warning = require_sound(same, max_failed=0.9, max_new_tokens=64, stops=True, is_plain=True)
    assert "are the same" in warning
    assert texts_of(first([""] * 16, failed=16), is_plain=True)


def test_stops_with_samples_and_the_switch_to_go_on_or_goes_on_saying_so() -> None:
    bad = first([""] * 16, failed=16)
    with pytest.raises(PreflightError) as caught:
        require_sound(bad, max_failed=0.9, max_new_tokens=64, stops=True)
    text = str(caught.value)
    assert 'row 1: answered "" (1 tokens, stop), expected "B"' in text
    assert "--set eval.preflight.on_failure=continue" in text
    assert caught.value.exit_code == 1
    assert "going on all the same" in require_sound(bad, max_failed=0.9, max_new_tokens=64, stops=False)
    assert require_sound(first(SOUND), max_failed=0.9, max_new_tokens=64, stops=True) == ""
