"""One replica's part of an evaluation: its share of the rows, answered and appended to a file of its own.

Replicas know nothing of each other: no collective is in the loop, and each may have another number of rows. Of a
replica that is cut over ranks all make the same calls; its first rank writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console

from qvl_eval.answering import PreparedRows, answer_prepared, in_order
from qvl_eval.asking import PreparedRow, prepare_row
from qvl_eval.conclude import judge_all
from qvl_eval.evaluation import Evaluation, answered_row, prepare
from qvl_eval.prediction_log import AnswerCount, Prediction, PredictionLog, done_answers
from qvl_eval.preflight import FirstAnswers, require_sound
from qvl_eval.show import AnsweringProgress
from qvl_eval.work_plan import WorkPlan, read_plan, spread

if TYPE_CHECKING:
    from qvl_core.launch.board import Board
    from qvl_core.parallel.world import World
    from qvl_core.recipe import Recipe
    from qvl_core.tasks import RunOptions

    from qvl_eval.answers.driver import Driver
    from qvl_eval.answers.model import LoadedModel
    from qvl_eval.tsv import Row


_LOOK_S = 1.0
_PATIENCE_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Replica:
    """A loaded model, which one of how many it is, and whether this rank is the one that writes for it."""

    loaded: LoadedModel
    driver: Driver
    number: int = 0
    count: int = 1
    is_first_rank: bool = True


def run(recipe: Recipe, options: RunOptions) -> None:
    """Answer as one of several processes; the launcher has checked everything and planned the work."""
    from qvl_core import device
    from qvl_core.launch.board import writer_from_environment
    from qvl_core.params import parameter_count

    board = writer_from_environment()
    board.mark("reading the benchmark")
    evaluation = prepare(recipe, is_checked=True)
    board.mark("importing MindSpore")
    device.prepare(recipe.launch.device)
    device.confine_small_model(parameter_count(recipe.spec))
    device.require_mindspore()
    from qvl_core.parallel.world import connect

    board.mark("connecting", waiting=True)
    world = connect(recipe.parallel, recipe.spec, board=board)
    board.stamp("connected")
    world.phase = "answering"
    plan = read_plan(evaluation.folder, evaluation.protocol.digest)
    board.mark("reading the weights")
    replica = _load(evaluation, world)
    board.stamp("loaded")
    answer_share(evaluation, replica, plan, Console(quiet=world.rank != 0), board)
    wait_for_others(AnswerCount(evaluation.folder), plan.total, lambda: board.mark("others", waiting=True))
    world.close()


def answer_share(
    evaluation: Evaluation, replica: Replica, plan: WorkPlan, console: Console, board: Board | None = None
) -> None:
    """Answer the replica's rows of the plan. Raises PreflightError where the first answers look broken."""
    folder, is_speaker = evaluation.folder, replica.number == 0 and replica.is_first_rank
    count = AnswerCount(folder)
    with AnsweringProgress(console, done=count.update(), rows=plan.total, shown=is_speaker) as progress:

        def answer(indexes: Iterable[str]) -> list[Prediction]:
            found = []
            for ended in _answers(evaluation, replica, in_order(evaluation.rows, indexes)):
                if board is not None:
                    board.mark("answering")
                if ended and replica.is_first_rank:
                    log.add(ended)
                found += [prediction for prediction, _ in ended]
                if is_speaker and (ended or progress.is_due):
                    progress.show(count.update())
            return found

        with _log_of(evaluation, replica) as log:
            if replica.number == 0 and plan.preflight:
                before = done_answers(folder, _keys(evaluation, _first_rows(evaluation)))
                check_first(evaluation, [*before.values(), *answer(plan.preflight)], progress.note)
            answer(plan.share(replica.number, replica.count))


def wait_for_others(
    count: AnswerCount,
    total: int,
    mark: Callable[[], None],
    *,
    sleep: Callable[[float], None] = time.sleep,
    patience: int = round(_PATIENCE_S / _LOOK_S),
) -> None:
    """Wait until the files hold all answers, and so for replicas that take longer.

    Leaving the world is a collective, which engines give up after some time. Where answers do not get more for ten
    minutes (another machine's may lie on another disk) this ends all the same.
    """
    seen, looks = count.update(), 0
    while seen < total and looks < patience:
        mark()
        sleep(_LOOK_S)
        now = count.update()
        seen, looks = now, 0 if now > seen else looks + 1


def check_first(evaluation: Evaluation, predictions: Iterable[Prediction], say: Callable[[str], None]) -> None:
    """Judge the rows of the pre-flight, where all of them are answered. Raises PreflightError, or says a warning."""
    settings = evaluation.section.preflight
    by_index = {one.index: one for one in predictions}
    rows = [row for row in _first_rows(evaluation) if row.index in by_index]
    answered = [answered_row(row, by_index[row.index]) for row in rows]
    first = FirstAnswers(
        predictions=[by_index[row.index] for row in rows],
        judged=judge_all(evaluation.benchmark, answered, evaluation.section.rule_sets[0]),
    )
    warning = require_sound(
        first,
        max_failed=settings.max_failed,
        max_new_tokens=evaluation.recipe.generation.max_new_tokens,
        stops=settings.on_failure == "stop",
        is_plain=evaluation.benchmark.kind == "plain",
    )
    if warning:
        say(warning)


def _first_rows(evaluation: Evaluation) -> list[Row]:
    indexes = spread([row.index for row in evaluation.rows], evaluation.section.preflight.rows)
    return in_order(evaluation.rows, indexes)


def _keys(evaluation: Evaluation, rows: Iterable[Row]) -> dict[str, str]:
    return {row.index: evaluation.key(row) for row in rows}


def _answers(evaluation: Evaluation, replica: Replica, rows: list[Row]) -> Iterable[list[tuple[Prediction, float]]]:
    slots = evaluation.section.batch
    with PreparedRows(rows, partial(_prepared, evaluation, replica), ahead=max(2, slots)) as prepared:
        yield from answer_prepared(replica.driver, prepared, slots=slots)


def _prepared(evaluation: Evaluation, replica: Replica, row: Row) -> PreparedRow:
    from qvl_eval.answers.driver import window_of

    loaded = replica.loaded
    return prepare_row(
        row,
        evaluation.parts(row),
        evaluation.key(row),
        loaded.processor,
        loaded.options,
        window=window_of(loaded),
    )


def _log_of(evaluation: Evaluation, replica: Replica) -> AbstractContextManager[PredictionLog]:
    """Open the replica's file on the rank that writes; the others have none."""
    if replica.is_first_rank:
        return PredictionLog(evaluation.folder, replica.number)
    return nullcontext(PredictionLog(evaluation.folder, replica.number))


def _load(evaluation: Evaluation, world: World) -> Replica:
    from qvl_eval.replica_model import load_replica

    loaded, driver = load_replica(evaluation, world)
    place = world.place
    return Replica(
        loaded=loaded,
        driver=driver,
        number=place.dp,
        count=world.layout.dp,
        is_first_rank=place.pp == place.tp == 0,
    )
