"""What a model answered while it trained: `evaluations/step_NNNNNN.jsonl`, as docs/evaluate.md describes them.

Each line is an answered row: `index`, `question`, `answer` (the right one), `prediction`, `score` from 0 to 1, and
`images`: the sha256 of the row's image files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvl_core.errors import InputError, OutputError
from qvl_core.input_file import open_regular_file

from qvl_train.reports import EVALUATIONS

_NAME = re.compile(r"step_([0-9]{1,12})\.jsonl")
_MOST_STEPS = 6
_MOST_LINES = 2000
_MOST_LINE_BYTES = 1 << 20
# Scores are from 0 to 1; those of another benchmark may be percent or counts.
_LARGEST_SCORE = 1e9


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was answered after a step, and whether it was right; `score` is None where nobody has scored it."""

    text: str
    score: float | None


@dataclass(frozen=True, kw_only=True)
class AnsweredQuestion:
    """A question, its right answer, and what was answered after each step that has an answer to it.

    `images` are the sha256 of its pictures; empty where the row does not say.
    """

    index: str
    question: str
    right: str
    answers: Mapping[int, Answer]
    images: tuple[str, ...] = ()


def evaluated_steps(folder: Path) -> list[int]:
    """Give the steps after which a run has kept answers, ascending."""
    place = folder / EVALUATIONS
    if not place.is_dir():
        return []
    return sorted(int(found[1]) for path in place.iterdir() if (found := _NAME.fullmatch(path.name)))


def spread(steps: Sequence[int], most: int = _MOST_STEPS) -> list[int]:
    """Give at most so many of the steps, the first and the last among them, the others evenly between."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(place * (len(steps) - 1) / (most - 1))] for place in range(most)]


def answered_questions(folder: Path, steps: Sequence[int], *, most: int) -> list[AnsweredQuestion]:
    """Give questions with their answers after each of these steps: some right ones and some wrong ones of the last.

    Of a file, the first rows only are looked at; files and lines that cannot be read have no answers. The last step is
    the last one that has some.
    """
    files = {step: {str(row["index"]): row for row in _rows(_file(folder, step))} for step in steps}
    last = next((rows for rows in reversed(files.values()) if rows), {})
    return [
        AnsweredQuestion(
            index=index,
            question=_text(row, "question"),
            right=_text(row, "answer"),
            answers={step: _answer(rows[index]) for step, rows in files.items() if index in rows},
            images=_digests(row),
        )
        for index, row in _chosen(last, most)
    ]


def _chosen(rows: Mapping[str, Mapping[str, Any]], most: int) -> list[tuple[str, Mapping[str, Any]]]:
    """Choose half of them among the wrong ones, as far as there are some, and keep their order."""
    wrong = [index for index, row in rows.items() if (score := _answer(row).score) is not None and score < 1]
    right = [index for index in rows if index not in set(wrong)]
    few = min(len(wrong), max(most // 2, most - len(right)))
    kept = {*wrong[:few], *right[: most - few]}
    return [(index, row) for index, row in rows.items() if index in kept]


def _answer(row: Mapping[str, Any]) -> Answer:
    score = row.get("score")
    # NaN is no score, and neither right nor wrong.
    if isinstance(score, bool) or not isinstance(score, int | float) or not abs(score) <= _LARGEST_SCORE:
        score = None
    return Answer(text=_text(row, "prediction"), score=score)


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key, "")
    return value if isinstance(value, str) else json.dumps(value)


def _digests(row: Mapping[str, Any]) -> tuple[str, ...]:
    found = row.get("images")
    return tuple(str(one) for one in found) if isinstance(found, list) else ()


def _file(folder: Path, step: int) -> Path:
    """Name the file of a step: six digits as it is written, or however many a newer version has."""
    place = folder / EVALUATIONS
    return next((path for path in place.iterdir() if (m := _NAME.fullmatch(path.name)) and int(m[1]) == step), place)


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with open_regular_file(path, error_type=OutputError) as file:
            for _ in range(_MOST_LINES):
                line = file.readline(_MOST_LINE_BYTES)
                if not line.endswith(b"\n"):
                    return
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(row, dict) and isinstance(row.get("index"), str | int):
                    yield row
    except (InputError, OSError):
        return
