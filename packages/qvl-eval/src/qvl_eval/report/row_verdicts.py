"""Rows side by side under every rule set: what each of them makes of a row, and where they differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from qvl_eval.score.judged import AnsweredRow, Judged
from qvl_eval.score.summary import Scores

Verdict = Literal["right", "part", "wrong", "failed"]
VERDICTS: tuple[Verdict, ...] = ("right", "part", "wrong", "failed")
VERDICT_TEXT = {"right": "right", "part": "partly right", "wrong": "wrong", "failed": "unread"}

Result = tuple[str, Scores, Sequence[Judged]]


@dataclass(frozen=True, kw_only=True)
class JudgedRow:
    """A row and its judgements, one for each rule set in the order of the report. `position` counts from 0."""

    position: int
    row: AnsweredRow
    judged: tuple[Judged, ...]

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        return tuple(verdict_of(one) for one in self.judged)

    @property
    def is_right(self) -> bool:
        """Tell whether the row is right under every rule set: there is nothing to look at."""
        return all(verdict == "right" for verdict in self.verdicts)

    @property
    def differs(self) -> bool:
        """Tell whether the rule sets give the row different scores."""
        return len({one.score for one in self.judged}) > 1


def verdict_of(judged: Judged) -> Verdict:
    """Give what a judgement says: a row of which nothing could be read is `failed`, not `wrong`."""
    if judged.failed:
        return "failed"
    if judged.score >= 1:
        return "right"
    return "part" if judged.score > 0 else "wrong"


def judged_rows(results: Sequence[Result]) -> Iterator[JudgedRow]:
    """Put the judgements of all rule sets together, row by row. Raises ValueError where the rows are not the same."""
    if not results:
        raise ValueError("a report needs the scores of one rule set at least")
    lengths = {rules: len(judged) for rules, _, judged in results}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the rule sets were not given the same rows: {lengths}")
    for position, judged in enumerate(zip(*(judged for _, _, judged in results), strict=True)):
        indexes = {one.row.index for one in judged}
        if len(indexes) > 1:
            raise ValueError(f"the rule sets were given rows in different order: {sorted(indexes)} at {position}")
        yield JudgedRow(position=position, row=judged[0].row, judged=judged)


def looked_at_first(rows: Sequence[JudgedRow]) -> list[JudgedRow]:
    """Order rows by what a reader wants to see: those that are not right under every rule set, then the others."""
    return sorted(rows, key=lambda row: row.is_right)
