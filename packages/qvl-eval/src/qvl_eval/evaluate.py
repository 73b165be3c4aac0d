"""Evaluate a model on a benchmark: answer the rows that are not answered yet, then score all of them.

Nothing is written before recipe, data, images and weights are known to be good.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvl_core.durable import FolderLock, atomic_write
from qvl_core.errors import DataError, OutputError, Problem, RecipeError
from qvl_core.run_folder import RunRecord, check_continues, check_unchanged, check_writable, read_record
from rich.console import Console

from qvl_eval.answering import Answer, Answerer, load_answerer
from qvl_eval.answers.model import weights_digest
from qvl_eval.benchmarks import Benchmark, find_benchmark
from qvl_eval.prediction_log import LOG_NAME, Prediction, PredictionLog, read_predictions
from qvl_eval.protocol import Protocol, protocol_of
from qvl_eval.score import Scored, Scores, score_row, summarise
from qvl_eval.show import AnsweringProgress, show_scores
from qvl_eval.tsv import SHOWN_PROBLEMS, Row, read_benchmark

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe
    from qvl_core.tasks import RunOptions
    from qvl_data.processor import Processor
    from qvl_data.samples import Sample

SCORES_NAME = "scores.json"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A checked evaluation: what is asked, under which protocol, and where it goes."""

    recipe: Recipe
    benchmark: Benchmark
    rows: tuple[Row, ...]
    protocol: Protocol
    folder: Path


def evaluate(recipe: Recipe, options: RunOptions, console: Console | None = None) -> int:
    """Run an evaluation recipe to its end and give the exit code 0.

    Continues what a killed run has left; says so and stops where everything is done. Raises InputError for bad
    recipe, data, weights or output folder, NotInstalledError for a benchmark of another version.
    """
    console = console or Console()
    evaluation = prepare(recipe, reshard=options.reshard)
    record = _own_record(evaluation, options)
    if _is_finished(record, evaluation):
        console.print(f"{evaluation.folder}: finished before; delete the folder to run it again", highlight=False)
        _conclude(evaluation, _answered(evaluation), console)
        return 0
    _check_images(evaluation)
    answerer = load_answerer(recipe, reshard=options.reshard)
    with FolderLock(evaluation.folder):
        check_unchanged(record, evaluation.folder)
        if record is None:
            record = RunRecord.start(recipe.resolved(), evaluation.protocol.hashes)
            record.write(evaluation.folder)
        answer_rows(evaluation, answerer, console)
        scores = _conclude(evaluation, _answered(evaluation), console)
        dataclasses.replace(record, result=_result(scores)).write(evaluation.folder)
    return 0


def prepare(recipe: Recipe, *, reshard: bool = False) -> Evaluation:
    """Read and check everything but the images and the tensors. Raises InputError, NotInstalledError."""
    section = recipe.eval
    assert section is not None, "the schema demands [eval] for task eval"
    if recipe.parallel.world_size > 1:
        message = f"the layout has {recipe.parallel.world_size} processes; this version of qvl-eval runs in one"
        fix = "--set layout.tp=1 --set layout.pp=1 --set layout.dp=1"
        raise RecipeError(Problem(where=recipe.path, key="layout", message=message, fix=fix))
    benchmark = find_benchmark(section.benchmark, section.rules, where=recipe.path)
    file = read_benchmark(Path(section.data), columns=benchmark.columns)
    protocol = protocol_of(recipe, data_digest=file.digest, weights_digest=weights_digest(recipe))
    return Evaluation(
        recipe=recipe,
        benchmark=benchmark,
        rows=file.rows[: section.limit] if section.limit else file.rows,
        protocol=protocol,
        folder=Path(recipe.output.dir),
    )


def answer_rows(evaluation: Evaluation, answerer: Answerer, console: Console) -> None:
    """Answer the rows that `predictions.jsonl` does not have, in file order, and append them batch by batch."""
    path = evaluation.folder / LOG_NAME
    done = read_predictions(path, evaluation.protocol.digest)
    left = [row for row in evaluation.rows if row.index not in done]
    section = evaluation.recipe.eval
    assert section is not None
    bar = AnsweringProgress(console, done=len(evaluation.rows) - len(left), rows=len(evaluation.rows))
    with PredictionLog(path) as log, bar:
        for rows in _batches(left, section.batch):
            answers = answerer.answer([prompt_of(row, answerer.processor) for row in rows])
            log.add(_prediction(evaluation, row, answer) for row, answer in zip(rows, answers, strict=True))
            bar.advance(len(rows))


def prompt_of(row: Row, processor: Processor) -> Sample:
    """Give the model input of a row: its pictures, then its question. Raises DataError naming the row."""
    from qvl_data.prompt import build_prompt

    return build_prompt(processor, row.images, row.question, sample_id=f"row {row.index}")


def score_predictions(
    benchmark: Benchmark, rules: str, rows: Sequence[Row], predictions: Mapping[str, Prediction]
) -> tuple[Scored, ...]:
    """Score every row that has an answer, in file order."""
    return tuple(
        Scored(
            index=row.index,
            category=row.category,
            answer=row.answer,
            prediction=predictions[row.index].prediction,
            score=score_row(benchmark.name, predictions[row.index].prediction, row.answer, rules=rules),
        )
        for row in rows
        if row.index in predictions
    )


def _own_record(evaluation: Evaluation, options: RunOptions) -> RunRecord | None:
    """Give the record of the run to continue, None for a new one. Raises OutputError for anybody else's folder."""
    folder = evaluation.folder
    if options.resume not in ("auto", "never"):
        message = f"an evaluation continues in its own folder; it has no checkpoint such as {options.resume}"
        raise OutputError(Problem(where="--resume", message=message, fix="--resume auto"))
    record = read_record(folder)
    if record is not None and options.resume == "never":
        message = f"holds the run {record.run_id}, and --resume never forbids to continue it"
        fix = "choose another folder: --set output.dir=runs/another_name"
        raise OutputError(Problem(where=str(folder), key="output.dir", message=message, fix=fix))
    if record is not None:
        check_continues(record, folder, evaluation.recipe.resolved(), evaluation.protocol.hashes)
    check_writable(folder)
    return record


def _check_images(evaluation: Evaluation) -> None:
    """Decode every picture once: a broken one is told before the model is loaded, not an hour later."""
    from qvl_data.media.images import ImageError, decode_image

    assert evaluation.recipe.eval is not None
    problems = []
    for row in evaluation.rows:
        for image in row.images:
            try:
                decode_image(image)
            except ImageError as error:
                where = f"{evaluation.recipe.eval.data}:{row.line}"
                problems.append(Problem(where=where, key=f"row {row.index}, image", message=str(error)))
    if problems:
        raise DataError(problems[:SHOWN_PROBLEMS])


def _is_finished(record: RunRecord | None, evaluation: Evaluation) -> bool:
    return record is not None and record.result is not None and record.result.get("rows") == len(evaluation.rows)


def _answered(evaluation: Evaluation) -> tuple[Scored, ...]:
    assert evaluation.recipe.eval is not None
    predictions = read_predictions(evaluation.folder / LOG_NAME, evaluation.protocol.digest)
    return score_predictions(evaluation.benchmark, evaluation.recipe.eval.rules, evaluation.rows, predictions)


def _conclude(evaluation: Evaluation, rows: tuple[Scored, ...], console: Console) -> Scores:
    """Write the scores and show them."""
    assert evaluation.recipe.eval is not None
    scores = summarise(evaluation.benchmark, evaluation.recipe.eval.rules, rows)
    content = {"protocol": evaluation.protocol.settings, **scores.as_json()}
    atomic_write(evaluation.folder / SCORES_NAME, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    show_scores(console, scores, rows, title=evaluation.benchmark.title)
    console.print(
        f"answers: {evaluation.folder / LOG_NAME}\nscores:  {evaluation.folder / SCORES_NAME}", highlight=False
    )
    return scores


def _result(scores: Scores) -> dict[str, Any]:
    return {
        "rows": scores.overall.rows,
        "accuracy_percent": scores.overall.accuracy_percent,
        "chance_percent": scores.chance_percent,
    }


def _prediction(evaluation: Evaluation, row: Row, answer: Answer) -> Prediction:
    return Prediction(
        protocol=evaluation.protocol.digest,
        index=row.index,
        category=row.category,
        question=row.question,
        answer=row.answer,
        prediction=answer.text,
        new_tokens=answer.new_tokens,
    )


def _batches(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
