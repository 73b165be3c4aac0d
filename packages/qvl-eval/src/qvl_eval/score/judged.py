"""What scoring takes and gives: a row with its answer, and the judgement of one rule set on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class AnsweredRow:
    """One question of a benchmark with the model's reply. A column that the file does not have is "".

    `answer` is the reference as the file spells it, perhaps a list literal. `subcategory` is the subject of an MMMU row
    (column l2-category). `images` are the sha256 of the pictures' bytes: rows that share one are a cluster.
    """

    index: str
    answer: str
    prediction: str
    question: str = ""
    split: str = ""
    category: str = ""
    subcategory: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    images: tuple[str, ...] = ()
    question_type: str = ""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What one rule set makes of a row: `score` 0 to 1, `extracted` letter or parsed answer, `rule` that decided.

    `failed` means that no answer could be read out of the reply; the score is then 0,
    but where the rule set draws an option.
    """

    row: AnsweredRow
    rules: str
    score: float
    extracted: str | None
    rule: str
    failed: bool
