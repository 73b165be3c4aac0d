"""Scoring is a pure function of texts; it works where no mindspore is."""

from __future__ import annotations

import subprocess
import sys

import pytest
from qvl_core.errors import NotInstalledError, RecipeError
from qvl_eval.benchmarks import BENCHMARKS, find_benchmark
from qvl_eval.score import score_row


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


def test_a_benchmark_of_another_version_is_not_installed() -> None:
    with pytest.raises(NotInstalledError, match="it has: ai2d_test") as caught:
        find_benchmark("another", ["exact"], where="r.toml")
    assert caught.value.exit_code == 3


def test_refuses_rules_that_do_not_fit_the_benchmark() -> None:
    with pytest.raises(RecipeError, match="vlmevalkit-2025-09 does not fit digits_test") as caught:
        find_benchmark("digits_test", ["exact", "vlmevalkit-2025-09"], where="r.toml")
    assert caught.value.problems[0].fix == 'rules = "exact"'
    assert find_benchmark("digits_test", ["exact"], where="r.toml") is BENCHMARKS["digits_test"]


def test_scoring_imports_no_framework() -> None:
    code = (
        "import sys; import qvl_eval.score, qvl_eval.tsv, qvl_eval.prediction_log, qvl_eval.commands\n"
        "found = {'mindspore', 'torch', 'transformers', 'pandas'} & set(sys.modules)\n"
        "sys.exit(repr(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
