"""Score answers that are there: no model, no recipe, no mindspore. The work of `qvl score`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvl_core.errors import DataError, Problem

from qvl_eval.answer_files.answers import Answers, read_answers, run_record
from qvl_eval.score.differences import count_score_differences, differing_rows
from qvl_eval.score.judge import judge
from qvl_eval.score.judged import Judged
from qvl_eval.score.rule_sets import BENCHMARKS, fitting_rules, headline_rules
from qvl_eval.score.summary import Scores, summarise

SHOWN_CHARACTERS = 200


@dataclass(frozen=True, kw_only=True)
class Rescored:
    """Answers under one or several rule sets; `results` has the scores and the judged rows of each, in file order."""

    answers: Answers
    benchmark: str
    results: tuple[tuple[Scores, tuple[Judged, ...]], ...]

    @property
    def differences(self) -> list[tuple[Judged, ...]]:
        """Give the judgements of the rows on which the rule sets differ."""
        return differing_rows([judged for _, judged in self.results])


def rescore(
    place: Path,
    benchmark: str | None = None,
    rules: Sequence[str] = (),
    *,
    data: Path | None = None,
    as_upstream: bool = False,
) -> Rescored:
    """Score a run folder's or a file's answers. Without rules those of the headline are taken.

    Without a benchmark it is the one of the run's recipe. Raises DataError for a benchmark or rules that do not exist
    or do not fit, and for answers that cannot be read.
    """
    benchmark = known_benchmark(place, benchmark)
    names = known_rules(benchmark, rules)
    answers = read_answers(place, benchmark, data)
    results = []
    for name in names:
        judged = tuple(judge(benchmark, row, name, as_upstream=as_upstream) for row in answers.rows)
        results.append((summarise(benchmark, name, judged), judged))
    return Rescored(answers=answers, benchmark=benchmark, results=tuple(results))


def rescored_json(rescored: Rescored) -> dict[str, Any]:
    """Give scores and differing rows for programs."""
    differences = rescored.differences
    return {
        "model": rescored.answers.model,
        "benchmark": rescored.benchmark,
        "answers": str(rescored.answers.path),
        "rows": len(rescored.answers.rows),
        "unit": "percent",
        "notes": list(rescored.answers.notes),
        "results": [scores.as_json() for scores, _ in rescored.results],
        "rows_that_differ": len(differences),
        "rows_with_other_scores": count_score_differences(differences),
        "differences": [_difference(verdicts) for verdicts in differences],
    }


def known_benchmark(place: Path, written: str | None) -> str:
    """Give the benchmark's name; not written, that of the run. Raises DataError if it is not known."""
    if written is None:
        recipe = run_record(place).get("recipe")
        section = recipe.get("eval") if isinstance(recipe, Mapping) else None
        written = section.get("benchmark") if isinstance(section, Mapping) else None
        if not isinstance(written, str):
            fix = f"--benchmark {BENCHMARKS[0]}"
            raise DataError(Problem(where=str(place), message="does not say which benchmark it answers", fix=fix))
    if written.lower() not in BENCHMARKS:
        message = f"there is no benchmark {written!r}; there is: {', '.join(BENCHMARKS)}"
        raise DataError(Problem(where="--benchmark", message=message, fix=_closest(written, BENCHMARKS, "--benchmark")))
    return written.lower()


def known_rules(benchmark: str, written: Sequence[str]) -> tuple[str, ...]:
    """Give the names of rule sets, each once; none written, those of the headline. Raises DataError for unfit ones."""
    fitting = fitting_rules(benchmark)
    problems = [
        Problem(
            where="--rules",
            message=f"{name!r} does not score {benchmark}; there is: {', '.join(fitting)}",
            fix=_closest(name, fitting, "--rules"),
        )
        for name in written
        if name not in fitting
    ]
    if problems:
        raise DataError(problems)
    return tuple(dict.fromkeys(written)) or headline_rules(benchmark)


def _difference(verdicts: Sequence[Judged]) -> dict[str, Any]:
    row = verdicts[0].row
    return {
        "index": row.index,
        "answer": row.answer,
        "prediction": row.prediction[:SHOWN_CHARACTERS],
        "by_rules": {
            one.rules: {"extracted": one.extracted, "score": one.score, "rule": one.rule, "failed": one.failed}
            for one in verdicts
        },
    }


def _closest(written: str, known: Sequence[str], option: str) -> str:
    found = difflib.get_close_matches(written.lower(), known, n=1, cutoff=0.4)
    return f"{option} {found[0] if found else known[0]}"
