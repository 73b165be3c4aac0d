"""The sums that `evaluate` makes of digits_test."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from qvl_eval.benchmarks import Benchmark


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One answered row with its score, 0 to 1."""

    index: str
    category: str
    answer: str
    prediction: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows taken together. `accuracy_percent` is the mean score in percent; `rows` is never 0."""

    name: str
    rows: int
    right: float
    accuracy_percent: float


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A benchmark's result: all rows, then each category in the file's order. Empty answers count as wrong."""

    benchmark: str
    rules: str
    chance_percent: float
    overall: Group
    categories: tuple[Group, ...]
    empty_answers: int

    def as_json(self) -> dict[str, Any]:
        """Give the content of `scores.json`."""
        return asdict(self)


def summarise(benchmark: Benchmark, rules: str, rows: Iterable[Scored]) -> Scores:
    """Sum up scored rows; there must be at least one."""
    scored = tuple(rows)
    by_category: dict[str, list[Scored]] = {}
    for row in scored:
        by_category.setdefault(row.category, []).append(row)
    return Scores(
        benchmark=benchmark.name,
        rules=rules,
        chance_percent=100 * benchmark.chance,
        overall=_group("all", scored),
        categories=tuple(_group(name, members) for name, members in sorted(by_category.items()) if name),
        empty_answers=sum(not row.prediction.strip() for row in scored),
    )


def _group(name: str, rows: Iterable[Scored]) -> Group:
    scores = [row.score for row in rows]
    right = sum(scores)
    return Group(name=name, rows=len(scores), right=right, accuracy_percent=round(100 * right / len(scores), 4))
