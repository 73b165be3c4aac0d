"""Sum up judged rows: all of them, each split, each subject and each domain, with the number that is reported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from qvl_eval.score.judged import Judged
from qvl_eval.score.mmmu_domains import domain_of

Kind = Literal["overall", "split", "subcategory", "category"]
# The rows whose score is the one to report; of a benchmark that is not here, all rows are.
HEADLINE_SPLITS = {"mmmu_dev_val": "validation"}


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows taken together; there is at least one. Percentages are 0 to 100, a failed row counts as 0.

    `percent_without_failed` leaves the failed rows out; None where all failed. `split` names the split that the rows of
    a subcategory or category were taken from, "" for all rows.
    """

    name: str
    kind: Kind
    rows: int
    failed: int
    percent: float
    percent_without_failed: float | None
    split: str = ""

    @property
    def failed_percent(self) -> float:
        """Give the rate of failed extraction, 0 to 100."""
        return 100 * self.failed / self.rows


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A benchmark's result under one rule set. `headline` is the number to report.

    `groups`: splits in file order, then subcategories, then categories, both in file order and over the rows of the
    headline. `split_groups`: the same two kinds within each split, where there is more than one. `official_percent` is
    MMMU's own sum of the headline's rows, of subjects rounded to three decimals; None for other benchmarks.
    """

    benchmark: str
    rules: str
    headline: Group
    overall: Group
    groups: tuple[Group, ...]
    split_groups: tuple[Group, ...] = ()
    empty_answers: int = 0
    official_percent: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Give the content for a JSON file."""
        return asdict(self)


def summarise(benchmark: str, rules: str, judged: Sequence[Judged]) -> Scores:
    """Sum up the judgements of one rule set. Raises ValueError if there are none."""
    benchmark = benchmark.lower()
    if not judged:
        raise ValueError(f"{benchmark}: there are no rows to sum up")
    splits = _grouped("split", judged, lambda one: one.row.split)
    overall = _group("all rows", "overall", judged)
    counted = headline_rows(benchmark, judged)
    within = "" if len(counted) == len(judged) else HEADLINE_SPLITS[benchmark]
    headline = next((group for group in splits if group.name == HEADLINE_SPLITS.get(benchmark)), overall)
    names = [group.name for group in splits] if len(splits) > 1 else []
    parts = [(name, [one for one in judged if one.row.split == name]) for name in names]
    return Scores(
        benchmark=benchmark,
        rules=rules,
        headline=headline,
        overall=overall,
        groups=(*splits, *_subjects_and_domains(counted, within)),
        split_groups=tuple(group for name, rows in parts for group in _subjects_and_domains(rows, name)),
        empty_answers=sum(not one.row.prediction.strip() for one in judged),
        official_percent=_official(counted) if benchmark == "mmmu_dev_val" else None,
    )


def headline_rows(benchmark: str, judged: Sequence[Judged]) -> list[Judged]:
    """Give the rows that the headline counts: those of its split; all where no row is in that."""
    wanted = HEADLINE_SPLITS.get(benchmark)
    return [one for one in judged if one.row.split == wanted] or list(judged)


def _subjects_and_domains(judged: Sequence[Judged], split: str) -> tuple[Group, ...]:
    return (
        *_grouped("subcategory", judged, lambda one: one.row.subcategory, split),
        *_grouped("category", judged, lambda one: one.row.category or domain_of(one.row.subcategory), split),
    )


def _official(judged: Sequence[Judged]) -> float:
    """Sum up as MMMU does: each subject's accuracy is rounded to three decimals before rows are counted."""
    subjects: dict[str, list[float]] = {}
    for one in judged:
        subjects.setdefault(one.row.subcategory, []).append(one.score)
    total = sum(round(sum(scores) / len(scores), 3) * len(scores) for scores in subjects.values())
    return 100 * total / len(judged)


def _grouped(kind: Kind, judged: Iterable[Judged], key: Callable[[Judged], str], split: str = "") -> tuple[Group, ...]:
    """Give a group per value, in the order in which values first occur; rows without one are in none."""
    found: dict[str, list[Judged]] = {}
    for one in judged:
        found.setdefault(key(one), []).append(one)
    return tuple(_group(name, kind, rows, split) for name, rows in found.items() if name)


def _group(name: str, kind: Kind, judged: Sequence[Judged], split: str = "") -> Group:
    total = sum(one.score for one in judged)
    failed = sum(one.failed for one in judged)
    read = [one.score for one in judged if not one.failed]
    return Group(
        name=name,
        kind=kind,
        rows=len(judged),
        failed=failed,
        percent=100 * total / len(judged),
        percent_without_failed=100 * sum(read) / len(read) if read else None,
        split=split,
    )
