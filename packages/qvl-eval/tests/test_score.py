"""Scoring is a pure function of texts; it works where no mindspore is."""

from __future__ import annotations

import subprocess
import sys

import pytest
from qvl_core.errors import NotInstalledError, RecipeError
from qvl_eval.benchmarks import BENCHMARKS, LATER, find_benchmark
from qvl_eval.score import Scored, score_row, summarise

DIGITS = BENCHMARKS["digits_test"]


@pytest.mark.parametrize(
    ("prediction", "answer", "score"),
    [
        ("7", "7", 1.0),
        (" 7\n", "7", 1.0),
        ("8", "7", 0.0),
        ("", "7", 0.0),
        ("77", "7", 0.0),
        ("The digit is 7", "7", 0.0),
    ],
)
def test_exact_rules(prediction: str, answer: str, score: float) -> None:
    assert score_row("digits_test", prediction, answer, rules="exact") == score


def test_refuses_rules_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="no scoring rules 'other'"):
        score_row("digits_test", "7", "7", rules="other")


def row(category: str, prediction: str, answer: str = "7") -> Scored:
    score = score_row("digits_test", prediction, answer)
    return Scored(index="1", category=category, answer=answer, prediction=prediction, score=score)


def test_sums_up_overall_and_by_category_in_percent() -> None:
    scores = summarise(DIGITS, "exact", [row("b", "7"), row("a", "7"), row("a", "1"), row("a", "")])
    assert scores.overall.accuracy_percent == 50.0
    assert [(group.name, group.rows, group.right) for group in scores.categories] == [("a", 3, 1.0), ("b", 1, 1.0)]
    assert scores.empty_answers == 1
    assert scores.chance_percent == 10.0


def test_rows_without_a_category_make_no_group() -> None:
    assert summarise(DIGITS, "exact", [row("", "7")]).categories == ()


@pytest.mark.parametrize("name", LATER)
def test_a_benchmark_of_a_later_version_is_not_installed(name: str) -> None:
    with pytest.raises(NotInstalledError, match="it has: digits_test") as caught:
        find_benchmark(name, "exact", where="r.toml")
    assert caught.value.exit_code == 3


def test_refuses_rules_that_do_not_fit_the_benchmark() -> None:
    with pytest.raises(RecipeError, match="vlmevalkit-2025-09 does not fit digits_test") as caught:
        find_benchmark("digits_test", "vlmevalkit-2025-09", where="r.toml")
    assert caught.value.problems[0].fix == 'rules = "exact"'
    assert find_benchmark("digits_test", "exact", where="r.toml") is DIGITS


def test_scoring_imports_no_framework() -> None:
    code = (
        "import sys; import qvl_eval.score, qvl_eval.tsv, qvl_eval.prediction_log, qvl_eval.commands\n"
        "found = {'mindspore', 'torch', 'transformers', 'pandas'} & set(sys.modules)\n"
        "sys.exit(repr(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
