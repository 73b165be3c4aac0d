"""The first answers of a run: whether they look like those of a model that was asked rightly. Pure.

A wrong checkpoint, a broken template or a wrong prompt family costs a day when it is seen in the score of the last row.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qvl_core.errors import RunError
from qvl_core.input_file import printable

if TYPE_CHECKING:
    from qvl_eval.prediction_log import Prediction
    from qvl_eval.score.judged import Judged

# Fewer answers prove nothing.
FEWEST = 8
# An answer that is cut at fewer tokens is one that was meant to be cut.
LONG_ANSWER = 16
_SHOWN = 5
_SHOWN_CHARACTERS = 120


class PreflightError(RunError):
    """The first answers say that the set-up is broken; the rows that are answered stay so."""


@dataclass(frozen=True, kw_only=True)
class FirstAnswers:
    """What the first answers came to. `judged` goes with `predictions`, by the rules of the headline."""

    predictions: Sequence[Prediction]
    judged: Sequence[Judged]

    @property
    def rows(self) -> int:
        return len(self.predictions)

    @property
    def empty(self) -> int:
        """Count answers without a character."""
        return sum(not one.prediction.strip() for one in self.predictions)

    @property
    def failed(self) -> int:
        """Count the answers that nothing can be read out of."""
        return sum(one.failed for one in self.judged)

    @property
    def refused(self) -> int:
        """Count the rows that could not be asked."""
        return sum(one.finish == "refused" for one in self.predictions)

    @property
    def cut(self) -> int:
        """Count the answers that ended at their longest."""
        return sum(one.finish == "length" for one in self.predictions)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something wrong with the first answers, with the numbers. Not every fault has to stop a run."""

    text: str
    stops: bool = True


def faults(first: FirstAnswers, *, max_failed: float, max_new_tokens: int, is_plain: bool = False) -> list[Fault]:
    """Say what is wrong with the first answers; nothing where they are fine, or too few to tell.

    `is_plain` is for benchmarks that are a model's own: one that has just begun to learn may answer always the same,
    and never stop by itself.
    """
    rows = first.rows
    if rows < FEWEST:
        return []
    if first.refused == rows:
        return [Fault(text=f"none of {rows} rows can be asked: {first.predictions[0].problem}")]
    if first.empty == rows:
        return [Fault(text=f"all {rows} answers are empty")]
    found = []
    if first.failed > max_failed * rows:
        share = f"{100 * first.failed / rows:.0f} %, more than {100 * max_failed:.0f} %"
        found.append(Fault(text=f"nothing can be read out of {first.failed} of {rows} answers: {share}"))
    texts = {one.prediction.strip() for one in first.predictions}
    references = {one.row.answer for one in first.judged}
    if len(texts) == 1 and len(references) > 1 and not any(one.score for one in first.judged):
        text = f"all {rows} answers are the same, to {len(references)} different references, and wrong"
        found.append(Fault(text=text, stops=not is_plain))
    if first.cut == rows and max_new_tokens >= LONG_ANSWER:
        text = f"all {rows} answers were cut at {max_new_tokens} new tokens: the model never stops by itself"
        found.append(Fault(text=text, stops=not is_plain))
    return found


def report(first: FirstAnswers, found: Sequence[Fault]) -> str:
    """Give what a person is shown of first answers that look broken: what is wrong, and some of them."""
    lines = ["the first answers look like those of a broken set-up:", *(f"  {fault.text}" for fault in found)]
    for one in list(first.predictions)[:_SHOWN]:
        answer = json.dumps(printable(one.prediction, _SHOWN_CHARACTERS), ensure_ascii=False)
        wanted = json.dumps(printable(one.answer, _SHOWN_CHARACTERS), ensure_ascii=False)
        lines.append(
            f"  row {printable(one.index, 60)}: answered {answer} ({one.new_tokens} tokens, {one.finish}), "
            f"expected {wanted}"
        )
    return "\n".join(lines)


def require_sound(
    first: FirstAnswers, *, max_failed: float, max_new_tokens: int, stops: bool, is_plain: bool = False
) -> str:
    """Give a warning, "" where the first answers are fine. Raises PreflightError instead where it `stops`."""
    found = faults(first, max_failed=max_failed, max_new_tokens=max_new_tokens, is_plain=is_plain)
    if not found:
        return ""
    text = report(first, found)
    if not any(fault.stops for fault in found):
        return text
    if not stops:
        return f"{text}\n  going on all the same, as eval.preflight.on_failure says"
    fix = "check weights.source, its chat template and eval.prompts, or go on all the same:"
    raise PreflightError(f"{text}\n  fix: {fix}\n       --set eval.preflight.on_failure=continue")
