"""What an evaluation ends with: scores under every rule set, the files that go with them, and what a person sees."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvl_core.durable import atomic_write
from qvl_core.run_folder import installed_versions

from qvl_eval.benchmarks.asking import prompt_text
from qvl_eval.evaluation.conclusion import Conclusion
from qvl_eval.evaluation.prediction_log import LOG_NAME, Prediction
from qvl_eval.evaluation.show import show_scores
from qvl_eval.score.judge import judge
from qvl_eval.score.judged import AnsweredRow, Judged
from qvl_eval.score.summary import Group, summarise

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe
    from rich.console import Console

    from qvl_eval.benchmarks.catalogue import Benchmark
    from qvl_eval.evaluation.setting import Evaluation

SCORES_NAME = "scores.json"
REPORT_NAME = "report.html"


def judge_all(benchmark: Benchmark, rows: Iterable[AnsweredRow], rules: str) -> tuple[Judged, ...]:
    """Judge rows under one rule set, in their order."""
    return tuple(judge(benchmark.name, row, rules) for row in rows)


def conclude(evaluation: Evaluation, predictions: Mapping[str, Prediction], console: Console) -> Conclusion:
    """Score all rows, write every file, and show the result."""
    from qvl_eval.evaluation.setting import answered_row

    rows = [answered_row(row, predictions[row.index]) for row in evaluation.rows]
    results = []
    for rules in evaluation.rule_sets:
        judged = judge_all(evaluation.benchmark, rows, rules)
        results.append((summarise(evaluation.benchmark.name, rules, judged), judged))
    conclusion = Conclusion(results=tuple(results), predictions=predictions)
    content = scores_content(evaluation, conclusion)
    atomic_write(evaluation.folder / SCORES_NAME, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    written = [evaluation.folder / LOG_NAME, evaluation.folder / SCORES_NAME, *_write_views(evaluation, conclusion)]
    show_scores(console, evaluation.benchmark, conclusion)
    for path in written:
        console.print(str(path), highlight=False, soft_wrap=True, markup=False)
    return conclusion


def scores_content(evaluation: Evaluation, conclusion: Conclusion) -> dict[str, Any]:
    """Give the content of `scores.json`: the headline, then every rule set."""
    headline, benchmark = conclusion.headline, evaluation.benchmark
    return {
        "benchmark": benchmark.name,
        "rules": headline.rules,
        "accuracy_percent": round(headline.headline.percent, 4),
        "chance_percent": _percent(benchmark.chance),
        "overall": group_content(headline.overall),
        "empty_answers": conclusion.empty_answers,
        "refused_rows": [one.index for one in conclusion.refused],
        "rule_sets": {scores.rules: scores.as_json() for scores, _ in conclusion.results},
        "differing_rows": [found[0].row.index for found in conclusion.differing],
        "protocol": evaluation.described(),
    }


def group_content(group: Group) -> dict[str, Any]:
    """Give a group with its sum of scores, and its mean under the name that `run.json` has for it."""
    right = group.percent * group.rows / 100
    return {**asdict(group), "right": round(right, 6), "accuracy_percent": round(group.percent, 4)}


def result_of(evaluation: Evaluation, conclusion: Conclusion) -> dict[str, Any]:
    """Give what `run.json` states as the result."""
    scores = conclusion.headline
    return {
        "rows": len(evaluation.rows),
        "accuracy_percent": round(scores.headline.percent, 4),
        "chance_percent": _percent(evaluation.benchmark.chance),
        "headline": scores.headline.name,
        "rules": scores.rules,
        "accuracy_percent_by_rules": {one.rules: round(one.headline.percent, 4) for one, _ in conclusion.results},
        "unreadable_percent": round(scores.headline.failed_percent, 4),
        "protocol": evaluation.described(),
    }


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _write_views(evaluation: Evaluation, conclusion: Conclusion) -> list[Path]:
    """Write the spreadsheet of answers, the table of accuracies and the report; all can be made again from the rest."""
    from qvl_eval.answer_files.score_files import write_score_files
    from qvl_eval.report.write_report import write_report

    files = write_score_files(
        evaluation.folder, model_name(evaluation.recipe), evaluation.benchmark.name, conclusion.results
    )
    rows = {row.index: row for row in evaluation.rows}
    report = evaluation.folder / REPORT_NAME
    write_report(
        report,
        title=f"{evaluation.benchmark.name}: {model_name(evaluation.recipe)}",
        protocol={**evaluation.described(), "versions": installed_versions()},
        results=[(scores.rules, scores, judged) for scores, judged in conclusion.results],
        pictures=lambda row: rows[row.index].images,
        prompts=lambda row: prompt_text(evaluation.parts(rows[row.index])),
    )
    return [*files, report]


def model_name(recipe: Recipe) -> str:
    """Name the model for file names: as the recipe names it, or the folder of its config."""
    path = Path(recipe.model.config or "model").resolve()
    return recipe.model.name or (path.parent.name if path.name == "config.json" else path.name)
