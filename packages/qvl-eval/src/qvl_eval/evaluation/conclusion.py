"""What an evaluation came to: scores and judgements of every rule set, beside the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qvl_eval.evaluation.prediction_log import Prediction
from qvl_eval.score.differences import differing_rows
from qvl_eval.score.judged import Judged
from qvl_eval.score.summary import Scores


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """Scores and judgements of every rule set, that of the headline first."""

    results: tuple[tuple[Scores, tuple[Judged, ...]], ...]
    predictions: Mapping[str, Prediction]

    @property
    def headline(self) -> Scores:
        return self.results[0][0]

    @property
    def empty_answers(self) -> int:
        """Count the answers without a character."""
        return sum(not one.prediction.strip() for one in self.predictions.values())

    @property
    def differing(self) -> list[tuple[Judged, ...]]:
        """List the rows on which the rule sets differ, each with its judgements."""
        return differing_rows([judged for _, judged in self.results])

    @property
    def refused(self) -> list[Prediction]:
        """List the rows that could not be asked."""
        return [one for one in self.predictions.values() if one.finish == "refused"]
