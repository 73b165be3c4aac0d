"""The rows on which rule sets differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qvl_eval.score.judge import is_open
from qvl_eval.score.judged import Judged


def differing_rows(judged: Sequence[Sequence[Judged]]) -> list[tuple[Judged, ...]]:
    """Give the judgements of each row that has several scores, or several letters read out of one reply.

    `judged` has the same rows, in the same order, under each rule set. What is read out of an answer in one's own words
    is spelt differently by each rule set; there only the scores count.
    """
    return [verdicts for verdicts in zip(*judged, strict=True) if _differ(verdicts)]


def count_score_differences(rows: Iterable[Sequence[Judged]]) -> int:
    """Count the rows that have several scores."""
    return sum(len({one.score for one in verdicts}) > 1 for verdicts in rows)


def _differ(verdicts: Sequence[Judged]) -> bool:
    if len({one.score for one in verdicts}) > 1:
        return True
    # Z and nothing are both no option.
    letters = {None if one.failed else one.extracted for one in verdicts}
    return len(letters) > 1 and not is_open(verdicts[0].row)
