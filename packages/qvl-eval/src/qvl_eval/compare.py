"""Compare two models on the rows of one benchmark: the difference with its interval, an exact test, rows won and lost.

Rows are paired, and rows that share a picture are drawn together: two questions about one page are no two samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvl_core.errors import DataError, Problem
from qvl_core.input_file import printable

from qvl_eval.answer_files.answers import Answers, read_answers, run_record
from qvl_eval.rescore import known_benchmark, known_rules
from qvl_eval.score.judge import judge
from qvl_eval.score.judged import AnsweredRow, Judged
from qvl_eval.score.summary import headline_rows

CONFIDENCE = 0.95
RESAMPLES = 10_000
# Draws of one step, so that memory stays at some tens of megabytes.
_DRAWS = 4_000_000
_FEW_CLUSTERS = 20
_ROUNDING = 1e-9
_SHOWN_NAMES = 5


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """B against A: `difference` is B - A in percentage points, `low` to `high` its interval.

    `p_rows` is McNemar's exact test over rows (for scores between 0 and 1 the sign test). `p_clusters` is the same test
    over clusters, each counted once by the sign of its sum: the one to go by where rows share pictures.
    """

    benchmark: str
    rules: str
    rows_of: str
    rows: int
    clusters: int
    percent_a: float
    percent_b: float
    difference: float
    low: float
    high: float
    resamples: int
    seed: int
    won: tuple[tuple[Judged, Judged], ...]
    lost: tuple[tuple[Judged, Judged], ...]
    clusters_won: int
    clusters_lost: int
    p_rows: float
    p_clusters: float
    notes: tuple[str, ...] = ()


def compare(
    place_a: Path,
    place_b: Path,
    benchmark: str | None = None,
    rules: str | None = None,
    *,
    data: Path | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Compare two run folders or files of answers over the rows of the benchmark's headline.

    Raises DataError where they answer other data, other rows, or the same rows with other questions or references.
    """
    benchmark = known_benchmark(place_a, benchmark)
    (name,) = known_rules(benchmark, [rules] if rules else [])[:1]
    _require_same_data(place_a, place_b)
    answers_a, answers_b = (read_answers(place, benchmark, data) for place in (place_a, place_b))
    rows_b = _paired(answers_a, answers_b)
    judged_a = headline_rows(benchmark, [judge(benchmark, row, name) for row in answers_a.rows])
    judged_b = [judge(benchmark, rows_b[one.row.index], name) for one in judged_a]
    return compare_judged(
        benchmark, judged_a, judged_b, seed=seed, resamples=resamples, notes=(*answers_a.notes, *answers_b.notes)
    )


def compare_judged(
    benchmark: str,
    judged_a: Sequence[Judged],
    judged_b: Sequence[Judged],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    notes: Sequence[str] = (),
) -> Comparison:
    """Compare judgements of the same rows in the same order."""
    gains = [b.score - a.score for a, b in zip(judged_a, judged_b, strict=True)]
    clusters = cluster_numbers([one.row for one in judged_a])
    number = max(clusters) + 1
    sums = _sums(gains, clusters, number)
    low, high = bootstrap_interval(sums, _sums([1.0] * len(gains), clusters, number), seed=seed, resamples=resamples)
    pairs = list(zip(judged_a, judged_b, strict=True))
    won = tuple(pair for pair, gain in zip(pairs, gains, strict=True) if gain > 0)
    lost = tuple(pair for pair, gain in zip(pairs, gains, strict=True) if gain < 0)
    # Similarities that cancel out may leave a rest of rounding.
    clusters_won, clusters_lost = (sum(sign * total > _ROUNDING for total in sums) for sign in (1, -1))
    percent_a, percent_b = (
        100 * math.fsum(one.score for one in judged) / len(pairs) for judged in (judged_a, judged_b)
    )
    split = judged_a[0].row.split
    is_one_split = bool(split) and all(one.row.split == split for one in judged_a)
    return Comparison(
        benchmark=benchmark,
        rules=judged_a[0].rules,
        rows_of=split if is_one_split else "all rows",
        rows=len(pairs),
        clusters=number,
        percent_a=percent_a,
        percent_b=percent_b,
        difference=100 * math.fsum(gains) / len(pairs),
        low=100 * low,
        high=100 * high,
        resamples=resamples,
        seed=seed,
        won=won,
        lost=lost,
        clusters_won=clusters_won,
        clusters_lost=clusters_lost,
        p_rows=exact_sign_test(len(won), len(lost)),
        p_clusters=exact_sign_test(clusters_won, clusters_lost),
        notes=(*notes, *_remarks([one.row for one in judged_a], number)),
    )


def exact_sign_test(won: int, lost: int) -> float:
    """Give the two-sided p of McNemar's exact test: of `won` + `lost` fair coins, at least as uneven."""
    total, fewer = won + lost, min(won, lost)
    ways = term = 1
    for i in range(fewer):
        term = term * (total - i) // (i + 1)
        ways += term
    return min(1.0, 2 * ways / 2**total)


def bootstrap_interval(
    sums: Sequence[float], sizes: Sequence[float], *, seed: int, resamples: int = RESAMPLES, level: float = CONFIDENCE
) -> tuple[float, float]:
    """Give the percentile interval of sum / size over clusters drawn with replacement, as many as there are."""
    import numpy as np

    random = np.random.default_rng(seed)
    totals, weights = np.asarray(sums, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    at_a_time = max(1, _DRAWS // len(totals))
    means = []
    for begin in range(0, resamples, at_a_time):
        drawn = random.integers(0, len(totals), (min(at_a_time, resamples - begin), len(totals)))
        means.append(totals[drawn].sum(axis=1) / weights[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def cluster_numbers(rows: Sequence[AnsweredRow]) -> list[int]:
    """Number each row's cluster from 0: rows that share a picture are in one, as are those that others connect."""
    parents = list(range(len(rows)))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    first: dict[str, int] = {}
    for number, row in enumerate(rows):
        for image in row.images:
            parents[root(number)] = root(first.setdefault(image, number))
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(row), len(numbers)) for row in range(len(rows))]


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Give a comparison for programs."""
    content = {name: value for name, value in vars(comparison).items() if name not in ("won", "lost")}
    content["notes"] = list(comparison.notes)
    content["unit"] = "percent"
    content["confidence"] = CONFIDENCE
    for name, pairs in (("won", comparison.won), ("lost", comparison.lost)):
        content[name] = [
            {
                "index": a.row.index,
                "answer": a.row.answer,
                **{
                    side: {"prediction": one.row.prediction, "extracted": one.extracted, "score": one.score}
                    for side, one in (("a", a), ("b", b))
                },
            }
            for a, b in pairs
        ]
    return content


def _sums(values: Sequence[float], clusters: Sequence[int], number: int) -> list[float]:
    sums = [0.0] * number
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] += value
    return sums


def _require_same_data(place_a: Path, place_b: Path) -> None:
    hashes = []
    for place in (place_a, place_b):
        found = run_record(place).get("hashes")
        hashes.append(found.get("data") if isinstance(found, Mapping) else None)
    if all(hashes) and hashes[0] != hashes[1]:
        message = f"answers data with sha256 {str(hashes[1])[:12]}...; {place_a} has {str(hashes[0])[:12]}..."
        raise DataError(Problem(where=str(place_b), message=message, fix="compare runs over one benchmark file"))


def _paired(answers_a: Answers, answers_b: Answers) -> dict[str, AnsweredRow]:
    """Give B's rows by index. Raises DataError unless both answer the same rows."""
    rows_a = {row.index: row for row in answers_a.rows}
    rows_b = {row.index: row for row in answers_b.rows}
    problems = []
    for here, there, path, other in (
        (rows_a, rows_b, answers_b.path, answers_a.path),
        (rows_b, rows_a, answers_a.path, answers_b.path),
    ):
        lacking = [index for index in here if index not in there]
        if lacking:
            message = f"lacks {len(lacking):,} of the {len(here):,} rows of {other} ({_names(lacking)})"
            problems.append(Problem(where=str(path), message=message, fix="compare answers to the same rows"))
    changed = [
        index
        for index in rows_a.keys() & rows_b.keys()
        if any(
            ours and theirs and ours != theirs
            for ours, theirs in (
                (rows_a[index].question, rows_b[index].question),
                (rows_a[index].answer, rows_b[index].answer),
                (rows_a[index].options, rows_b[index].options),
                (rows_a[index].images, rows_b[index].images),
            )
        )
    ]
    if changed:
        message = (
            f"{len(changed):,} rows have another question, picture, option or reference ({_names(sorted(changed))})"
        )
        problems.append(Problem(where=f"{answers_a.path} and {answers_b.path}", message=message))
    if problems:
        raise DataError(problems)
    return rows_b


def _names(indices: Sequence[str]) -> str:
    shown = ", ".join(printable(index, 60) for index in indices[:_SHOWN_NAMES])
    return shown if len(indices) <= _SHOWN_NAMES else f"{shown}, ..."


def _remarks(rows: Sequence[AnsweredRow], clusters: int) -> list[str]:
    remarks = []
    if not any(row.images for row in rows):
        remarks.append("the pictures of the rows are not known, so each row is drawn by itself; --data tells them")
    if clusters < _FEW_CLUSTERS:
        remarks.append(f"an interval over {clusters} clusters says little")
    return remarks
