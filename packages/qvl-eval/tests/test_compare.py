"""Comparisons: the interval and the test against known values and simulations, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qvl_core.errors import DataError
from qvl_eval.compare import (
    bootstrap_interval,
    cluster_numbers,
    compare,
    compare_judged,
    comparison_json,
    exact_sign_test,
)
from qvl_eval.score.judged import AnsweredRow, Judged


@pytest.mark.parametrize(
    ("won", "lost", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (1, 0, 1.0),
        (5, 0, 0.0625),
        (0, 6, 0.03125),
        # Agresti, Categorical Data Analysis: 2 * P(X <= 2), X of 10 coins = 2 * 56 / 1024.
        (2, 8, 0.109375),
        (10, 1, 2 * 12 / 2048),
    ],
)
def test_the_exact_test_has_known_values(won: int, lost: int, p: float) -> None:
    assert exact_sign_test(won, lost) == p


@settings(deadline=None)
@given(st.integers(0, 400), st.integers(0, 400))
def test_the_exact_test_is_the_sum_of_binomials(won: int, lost: int) -> None:
    total = won + lost
    tail = sum(math.comb(total, k) for k in range(min(won, lost) + 1))
    assert exact_sign_test(won, lost) == min(1.0, 2 * tail / 2**total) == exact_sign_test(lost, won)


def test_the_exact_test_takes_ten_thousand_rows() -> None:
    assert exact_sign_test(5100, 4900) == pytest.approx(0.0466, abs=5e-4)
    assert exact_sign_test(9000, 1000) < 1e-300


def judged(scores: Sequence[float], images: Sequence[str] = (), split: str = "") -> list[Judged]:
    return [
        Judged(
            row=AnsweredRow(
                index=str(i), answer="", prediction="", split=split, images=(images[i],) if images and images[i] else ()
            ),
            rules="r",
            score=score,
            extracted=None,
            rule="",
            failed=False,
        )
        for i, score in enumerate(scores)
    ]


def test_difference_rows_won_and_lost() -> None:
    result = compare_judged("x", judged([1, 1, 0, 0, 0.5]), judged([1, 0, 1, 1, 0.75]))
    assert (result.percent_a, result.percent_b) == (50.0, 75.0)
    assert result.difference == pytest.approx(25.0)
    assert [a.row.index for a, _ in result.won] == ["2", "3", "4"]
    assert [a.row.index for a, _ in result.lost] == ["1"]
    assert (result.rows, result.clusters, result.p_rows, result.p_clusters) == (5, 5, 0.625, 0.625)
    assert "the pictures of the rows are not known" in result.notes[0]
    assert "an interval over 5 clusters says little" in result.notes[1]


def test_rows_of_one_picture_are_one_cluster() -> None:
    rows = [
        AnsweredRow(index=str(i), answer="", prediction="", images=images)
        for i, images in enumerate([("a",), ("b",), ("a", "c"), (), ("d", "c"), (), ("b", "b")])
    ]
    assert cluster_numbers(rows) == [0, 1, 0, 2, 0, 3, 1]


def test_the_test_over_clusters_counts_a_picture_once() -> None:
    images = ["p"] * 8 + ["q", "r"]
    result = compare_judged("x", judged([0] * 10, images), judged([1] * 10, images))
    assert (result.clusters, result.clusters_won, result.clusters_lost) == (3, 3, 0)
    assert (result.p_rows, result.p_clusters) == (2 / 1024, 0.25)


def test_gains_and_losses_that_cancel_within_a_picture_are_no_win() -> None:
    images = ["p", "p", "p"]
    result = compare_judged("x", judged([0.6, 0.8, 0.7], images), judged([0.7, 0.9, 0.5], images))
    assert (result.clusters_won, result.clusters_lost, result.p_clusters) == (0, 0, 1.0)


def test_the_interval_is_that_of_the_normal_theory_for_many_rows() -> None:
    random = np.random.default_rng(1)
    gains = random.choice([-1.0, 0.0, 1.0], 2000, p=[0.1, 0.7, 0.2])
    low, high = bootstrap_interval(list(gains), [1.0] * 2000, seed=0)
    half = 1.96 * gains.std() / math.sqrt(2000)
    # The quantiles of 10,000 resamples have a standard error of about 2 % of the half width.
    assert (low, high) == (
        pytest.approx(gains.mean() - half, abs=0.08 * half),
        pytest.approx(gains.mean() + half, abs=0.08 * half),
    )


def test_clusters_of_equal_rows_widen_the_interval_by_the_root_of_their_size() -> None:
    random = np.random.default_rng(2)
    gains = [float(gain) for gain in random.choice([-1.0, 1.0], 400) for _ in range(9)]
    images = [f"p{i // 9}" for i in range(len(gains))]
    scores = [(gain + 1) / 2 for gain in gains]
    half = judged([0.5] * len(gains), images)
    together = compare_judged("x", half, judged(scores, images))
    apart = compare_judged("x", judged([0.5] * len(gains)), judged(scores))
    assert (together.clusters, apart.clusters) == (400, 3600)
    assert (together.high - together.low) / (apart.high - apart.low) == pytest.approx(3, rel=0.06)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(3)
    covered = 0
    for trial in range(400):
        # 60 pages with 1 to 5 questions each, gains that go together on a page; the true mean is 0.1.
        sizes = random.integers(1, 6, 60)
        page = random.normal(0.1, 0.4, 60)
        sums = [float(random.normal(mean, 0.3, size).sum()) for mean, size in zip(page, sizes, strict=True)]
        low, high = bootstrap_interval(sums, sizes.astype(float).tolist(), seed=trial, resamples=1000)
        covered += low <= 0.1 <= high
    # 95 % wanted; percentile intervals over 60 clusters reach some 94 %, and 400 trials spread by 1.1 %.
    assert 0.90 <= covered / 400 <= 0.98


def test_under_no_difference_the_test_is_rarely_small() -> None:
    random = np.random.default_rng(4)
    ps = [exact_sign_test(int(won), 60 - int(won)) for won in random.binomial(60, 0.5, 4000)]
    # An exact test of discrete counts stays below its level: here 0.0273 is the largest p that is at most 0.05.
    assert sum(p <= 0.05 for p in ps) / 4000 <= 0.05


def test_a_seed_makes_the_interval_again() -> None:
    a, b = judged([0, 1] * 50), judged([1, 0, 1, 1] * 25)
    first, second, third = (compare_judged("x", a, b, seed=seed, resamples=500) for seed in (5, 5, 6))
    assert (first.low, first.high) == (second.low, second.high) != (third.low, third.high)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0, 0.5, 1]), st.sampled_from([0, 0.5, 1]), st.sampled_from("abc")), min_size=1)
)
def test_swapping_the_sides_turns_the_sign(rows: list[tuple[float, float, str]]) -> None:
    a, b, images = zip(*rows, strict=True)
    there = compare_judged("x", judged(a, images), judged(b, images), resamples=100)
    back = compare_judged("x", judged(b, images), judged(a, images), resamples=100)
    assert there.difference == pytest.approx(-back.difference)
    assert (len(there.won), there.p_rows, there.p_clusters) == (len(back.lost), back.p_rows, back.p_clusters)
    assert there.low - 1e-9 <= there.high
    assert there.low >= -100


def write(path: Path, rows: Sequence[dict[str, Any]], data: str = "") -> Path:
    path.mkdir()
    (path / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = {"recipe": {"eval": {"benchmark": "ai2d_test"}, "model": {"name": "tiny"}}, "hashes": {"data": data}}
    (path / "run.json").write_text(json.dumps(record))
    return path


def rows(predictions: str, **changes: Any) -> list[dict[str, Any]]:
    return [
        {
            **{"index": str(i), "question": "q", "answer": "A", "options": {"A": "x", "B": "y"}},
            **{"prediction": letter, "images": [f"p{i // 2}"], **changes},
        }
        for i, letter in enumerate(predictions)
    ]


def test_compares_two_run_folders(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", rows("AABB"), "d1"), write(tmp_path / "b", rows("AAAB"), "d1")
    result = compare(a, b)
    assert (result.benchmark, result.rules, result.rows, result.clusters) == ("ai2d_test", "vlmevalkit-2026-06", 4, 2)
    assert result.difference == 25.0
    content = json.loads(json.dumps(comparison_json(result)))
    assert content["won"] == [
        {
            **{"index": "2", "answer": "A"},
            **{"a": {"prediction": "B", "extracted": "B", "score": 0.0}},
            **{"b": {"prediction": "A", "extracted": "A", "score": 1.0}},
        }
    ]
    assert content["lost"] == []


def test_rows_are_paired_by_index_not_by_place(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", rows("AABB")), write(tmp_path / "b", rows("AABB")[::-1])
    assert compare(a, b, rules="mindspeed").difference == 0


def test_mmmu_is_compared_over_its_validation_rows(tmp_path: Path) -> None:
    splits = ["dev", "validation", "validation", "dev"]

    def made(predictions: str) -> list[dict[str, Any]]:
        return [{**row, "split": split} for row, split in zip(rows(predictions), splits, strict=True)]

    a, b = write(tmp_path / "a", made("BBBB")), write(tmp_path / "b", made("AABA"))
    result = compare(a, b, "mmmu_dev_val")
    assert (result.rows, result.rows_of, result.difference) == (2, "validation", 50.0)


@pytest.mark.parametrize(
    ("theirs", "data", "message"),
    [
        (rows("AABB"), "d2", "answers data with sha256 d2...; {a} has d1..."),
        (rows("AAB"), "d1", "lacks 1 of the 4 rows of {a}/predictions.jsonl (3)"),
        (rows("AABBBB"), "d1", "lacks 2 of the 6 rows of {b}/predictions.jsonl (4, 5)"),
        (rows("AABB", answer="B"), "d1", "4 rows have another question, picture, option or reference (0, 1, 2, 3)"),
        (rows("AABB", question="other"), "d1", "4 rows have another question"),
        (rows("AABB", images=["z"]), "d1", "4 rows have another question, picture"),
    ],
)
def test_refuses_answers_to_something_else(
    tmp_path: Path, theirs: list[dict[str, Any]], data: str, message: str
) -> None:
    a, b = write(tmp_path / "a", rows("AABB"), "d1"), write(tmp_path / "b", theirs, data)
    with pytest.raises(DataError) as caught:
        compare(a, b)
    assert message.format(a=a, b=b) in str(caught.value)
