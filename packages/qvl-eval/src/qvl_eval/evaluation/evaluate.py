"""Evaluate a model on a benchmark: answer the rows that are not answered yet, then score all of them.

Here is what the process does that a person started; what answers is in `replica`. Nothing is written before recipe,
data, images and weights are known to be good.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from qvl_core.durable import FolderLock, remove_leftovers
from qvl_core.errors import EXIT_DONE, OutputError, Problem, RunError
from qvl_core.run_folder import RunRecord, check_continues, check_unchanged, check_writable, read_record
from rich.console import Console

from qvl_eval.answers.model import note_weights
from qvl_eval.evaluation.conclude import conclude, result_of
from qvl_eval.evaluation.conclusion import Conclusion
from qvl_eval.evaluation.prediction_log import AnswerCount, Prediction, done_answers, gather
from qvl_eval.evaluation.replica import Replica, answer_share, check_first
from qvl_eval.evaluation.replica_model import load_replica
from qvl_eval.evaluation.setting import Evaluation, check_pictures, notices, prepare
from qvl_eval.evaluation.show import checking_progress
from qvl_eval.evaluation.work_plan import PLAN_NAME, WorkPlan, make_plan, spread

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe
    from qvl_core.tasks import RunOptions


def evaluate(recipe: Recipe, options: RunOptions, console: Console | None = None) -> int:
    """Run an evaluation recipe to its end and give the exit code 0.

    Continues what a killed run has left; says so and stops where everything is done. Raises InputError for bad
    recipe, data, weights or output folder, NotInstalledError for a benchmark of another version, PreflightError where
    the first answers look broken.
    """
    console = console or Console()
    if options.node_rank not in (None, 0):
        # Of several machines the first one keeps the folder.
        _start_workers(options)
        return EXIT_DONE
    evaluation = prepare(recipe)
    for line in notices(evaluation):
        console.print(f"warning: {line}", style="yellow", highlight=False, soft_wrap=True, markup=False)
    record, changes = _own_record(evaluation, options)
    if record is not None and _is_finished(record, evaluation):
        console.print(
            f"{evaluation.folder}: finished before; delete the folder to run it again", highlight=False, soft_wrap=True
        )
        with FolderLock(evaluation.folder):
            remove_leftovers(evaluation.folder)
            conclusion = conclude(evaluation, _done(evaluation), console)
            _write_result(_started(record, evaluation, changes), evaluation, conclusion)
        return EXIT_DONE
    with checking_progress(console) as advance:
        check_pictures(evaluation, advance)
    note_weights(recipe)
    is_alone = recipe.parallel.world_size == 1
    replica = _load(evaluation) if is_alone else None
    with FolderLock(evaluation.folder):
        check_unchanged(record, evaluation.folder)
        remove_leftovers(evaluation.folder)
        record = _started(record, evaluation, changes)
        record.write(evaluation.folder)
        _answer(evaluation, replica, options, console)
        conclusion = conclude(evaluation, _all_done(evaluation), console)
        _write_result(record, evaluation, conclusion)
    return EXIT_DONE


def _answer(evaluation: Evaluation, replica: Replica | None, options: RunOptions, console: Console) -> None:
    """Plan what is left and answer it, here or in processes of their own; put the answers in the file's order."""
    folder = evaluation.folder
    done = _done(evaluation, drop_others=options.accept_changes)
    gather(folder, evaluation.keys)
    indexes = [row.index for row in evaluation.rows]
    plan = make_plan(
        indexes,
        done,
        evaluation.protocol.digest,
        preflight=evaluation.section.preflight.rows,
        beyond=AnswerCount(folder).update() - len(done),
    )
    if done:
        console.print(
            f"{folder}: {len(done)} of {len(indexes)} rows were answered before", highlight=False, soft_wrap=True
        )
    first = spread(indexes, evaluation.section.preflight.rows)
    if not plan.preflight and first:
        # They were answered by an earlier run, which they may have stopped.
        check_first(evaluation, [done[index] for index in first], lambda text: _say(console, text))
    if plan.preflight or plan.left:
        _work(evaluation, plan, replica, options, console)
        gather(folder, evaluation.keys)


def _work(
    evaluation: Evaluation, plan: WorkPlan, replica: Replica | None, options: RunOptions, console: Console
) -> None:
    if replica is not None:
        answer_share(evaluation, replica, plan, console)
        return
    plan.write(evaluation.folder)
    _start_workers(options)


def _start_workers(options: RunOptions) -> None:
    assert options.start_workers is not None, "the command `qvl run` says how to start workers"
    if options.start_workers() is not None:
        raise KeyboardInterrupt


def _load(evaluation: Evaluation) -> Replica:
    loaded, driver = load_replica(evaluation, None)
    return Replica(loaded=loaded, driver=driver)


def _own_record(evaluation: Evaluation, options: RunOptions) -> tuple[RunRecord | None, list[str]]:
    """Give the record of the run to continue, None for a new one, and the accepted differences.

    Raises OutputError for anybody else's folder.
    """
    folder = evaluation.folder
    if options.resume not in ("auto", "never"):
        message = f"an evaluation continues in its own folder; it has no checkpoint such as {options.resume}"
        raise OutputError(Problem(where="--resume", message=message, fix="--resume auto"))
    record = read_record(folder)
    if record is not None and options.resume == "never":
        message = f"holds the run {record.run_id}, and --resume never forbids to continue it"
        fix = "choose another folder: --set output.dir=runs/another_name"
        raise OutputError(Problem(where=str(folder), key="output.dir", message=message, fix=fix))
    changes: list[str] = []
    if record is not None:
        recipe, hashes = evaluation.recipe.resolved(), evaluation.protocol.hashes
        changes = check_continues(record, folder, recipe, hashes, accept=options.accept_changes)
    check_writable(folder)
    return record, changes


def _started(record: RunRecord | None, evaluation: Evaluation, changes: list[str]) -> RunRecord:
    recipe, hashes = evaluation.recipe.resolved(), evaluation.protocol.hashes
    if record is None:
        return RunRecord.start(recipe, hashes)
    # What decides no answer, such as rules, limit and layout, is stated as it was at last.
    return dataclasses.replace(record.changed(recipe, hashes, changes, step=0), recipe=recipe)


def _is_finished(record: RunRecord, evaluation: Evaluation) -> bool:
    result = record.result or {}
    if result.get("rows") != len(evaluation.rows) or record.hashes != evaluation.protocol.hashes:
        return False
    return len(_done(evaluation)) == len(evaluation.rows)


def _done(evaluation: Evaluation, *, drop_others: bool = False) -> Mapping[str, Prediction]:
    return done_answers(evaluation.folder, evaluation.keys, drop_others=drop_others)


def _all_done(evaluation: Evaluation) -> Mapping[str, Prediction]:
    """Give all answers. Raises RunError where replicas have written to another disk than this one's."""
    done = _done(evaluation)
    missing = [row.index for row in evaluation.rows if row.index not in done]
    if missing:
        raise RunError(
            f"{evaluation.folder}: {len(missing)} of {len(evaluation.rows)} rows have no answer (first: {missing[0]})\n"
            "  fix: put output.dir on a disk that all machines share, and run the same command again"
        )
    return done


def _write_result(record: RunRecord, evaluation: Evaluation, conclusion: Conclusion) -> None:
    # Before the result: whoever is killed between the two leaves nothing that no later run would take away.
    (evaluation.folder / PLAN_NAME).unlink(missing_ok=True)
    dataclasses.replace(record, result=result_of(evaluation, conclusion)).write(evaluation.folder)


def _say(console: Console, text: str) -> None:
    console.print(text, style="yellow", highlight=False, soft_wrap=True, markup=False)
