"""An evaluation of a model while it trains: all ranks answer, replicas share the rows, and nothing is left changed.

The entry point `eval` of the group `qvl.evaluators`; what it gives and takes is in `qvl_core.evaluators`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from qvl_core.evaluators import Measured

from qvl_eval.benchmarks.asking import prepare_row
from qvl_eval.benchmarks.catalogue import find_benchmark
from qvl_eval.benchmarks.tsv import read_benchmark
from qvl_eval.evaluation.answering import PreparedRows, answer_prepared
from qvl_eval.evaluation.conclude import judge_all
from qvl_eval.evaluation.prediction_log import Prediction
from qvl_eval.evaluation.setting import (
    Evaluation,
    answered_row,
    check_pictures,
    evaluation_of,
    notices,
    with_pixel_limits,
)
from qvl_eval.score.summary import summarise

if TYPE_CHECKING:
    from qvl_core.model import Qwen25VL
    from qvl_core.parallel.world import World
    from qvl_core.recipe import Recipe

    from qvl_eval.answers.driver import Driver
    from qvl_eval.answers.model import LoadedModel
    from qvl_eval.benchmarks.cell_types import Compat
    from qvl_eval.benchmarks.tsv import Row

# Rows of a replica between two looks at whether a signal has come: each is an exchange that all ranks wait for.
FEWEST_BETWEEN_LOOKS = 16
# Weights change under the engine: nothing is compiled for them, and nothing of them is copied.
_NEVER = 2**62


class TrainingEvaluator:
    """The [eval] of a training recipe. Made in every process, and before any in the one that starts them."""

    def __init__(self, recipe: Recipe) -> None:
        """Read the benchmark. Raises InputError."""
        section = recipe.eval
        assert section is not None, "a recipe that evaluates has [eval]"
        recipe = with_pixel_limits(recipe)
        benchmark = find_benchmark(section.benchmark, section.rule_sets, where=recipe.path)
        # The weights are those of the step, which the file of answers is named after.
        self._evaluation = evaluation_of(recipe, benchmark, weights_digest="")
        self._processor: Any = None

    def check(self) -> list[str]:
        """Decode every picture, and give what a person should know of the file. Raises DataError."""
        check_pictures(self._evaluation)
        return notices(self._evaluation)

    def measure(
        self,
        model: Qwen25VL,
        world: World,
        *,
        step: int,
        show: Callable[[int, int], None],
        asked_to_stop: Callable[[], str | None],
    ) -> Measured:
        """Answer this replica's share of the rows, exchange answers, and score all of them."""
        began = time.perf_counter()
        with _answering(model):
            loaded = self._loaded(model)
            answered = _answer_share(self._evaluation, loaded, world, step, show, asked_to_stop)
        # Of a replica that is cut over ranks all have the answers; its first one says them.
        own = [asdict(one) for one in answered.predictions] if world.place.pp == world.place.tp == 0 else []
        told = [cast("list[Any]", part) for part in world.exchange([cast("Any", own), answered.signal_name])]
        signal_name = next((str(part[1]) for part in told if part[1] is not None), None)
        if not answered.is_complete:
            return Measured(signal_name=signal_name, is_complete=False)
        found = {one["index"]: _prediction(one) for part in told for one in part[0]}
        return _measured(self._evaluation, found, time.perf_counter() - began, step, signal_name)

    @staticmethod
    def pictures(path: Path, indexes: Collection[str], *, compat: Compat) -> dict[str, tuple[bytes, ...]]:
        """Give the image files of these rows of a benchmark's file, for a page. Raises DataError."""
        wanted = set(indexes)
        columns = ("index", "image")
        rows = read_benchmark(path, columns=columns, compat=compat, is_checked=True, is_hashed=False).rows
        found: dict[str, tuple[bytes, ...]] = {}
        for row in rows:
            if row.index in wanted:
                try:
                    found[row.index] = row.images
                except ValueError:
                    # What is not base64 is no picture.
                    found[row.index] = ()
        return found

    def _loaded(self, model: Qwen25VL) -> LoadedModel:
        from qvl_core.generate import changed_options, read_generation_config
        from qvl_data.processor import processor_of

        from qvl_eval.answers.model import LoadedModel, generation_options

        recipe = self._evaluation.recipe
        self._processor = self._processor or processor_of(recipe)
        defaults = read_generation_config(Path(recipe.weights.source))
        options = changed_options(defaults, generation_options(recipe.generation))
        return LoadedModel(model=model, processor=self._processor, options=options)


class _Answered:
    """What a replica has answered, and whether a signal has ended it early; the latter is the same on every rank."""

    def __init__(self) -> None:
        self.predictions: list[Prediction] = []
        self.signal_name: str | None = None
        self.is_complete = True


def _answer_share(
    evaluation: Evaluation,
    loaded: LoadedModel,
    world: World,
    step: int,
    show: Callable[[int, int], None],
    asked_to_stop: Callable[[], str | None],
) -> _Answered:
    """Answer the rows of this replica in pieces, between which all ranks look whether they are asked to stop."""
    rows, answered = evaluation.rows[world.place.dp :: world.layout.dp], _Answered()
    size = max(FEWEST_BETWEEN_LOOKS, 4 * evaluation.section.batch)
    longest = -(-len(evaluation.rows) // world.layout.dp)
    driver = _driver(evaluation, loaded, world)
    for start in range(0, longest, size):
        if start and next(filter(None, world.exchange(asked_to_stop())), None) is not None:
            answered.is_complete = False
            break
        for prediction in _answers(evaluation, loaded, driver, rows[start : start + size]):
            answered.predictions.append(prediction)
            # Also for the watchdog: a long evaluation moves.
            world.phase = f"evaluation after step {step}: {len(answered.predictions)} of {len(rows)}"
            show(len(answered.predictions), len(rows))
    answered.signal_name = asked_to_stop()
    return answered


def _answers(evaluation: Evaluation, loaded: LoadedModel, driver: Driver, rows: Sequence[Row]) -> Iterator[Prediction]:
    slots = evaluation.section.batch
    with PreparedRows(rows, partial(_prepared, evaluation, loaded), ahead=max(2, slots)) as prepared:
        for ended in answer_prepared(driver, prepared, slots=slots):
            yield from (prediction for prediction, _ in ended)


def _prepared(evaluation: Evaluation, loaded: LoadedModel, row: Row) -> Any:
    from qvl_eval.answers.driver import window_of

    parts, key = evaluation.parts(row), evaluation.key(row)
    return prepare_row(row, parts, key, loaded.processor, loaded.options, window=window_of(loaded))


def _driver(evaluation: Evaluation, loaded: LoadedModel, world: World) -> Driver:
    from qvl_eval.answers.driver import window_of
    from qvl_eval.evaluation.replica_model import driver_of_part

    held = evaluation.section.held_tokens or window_of(loaded)
    return driver_of_part(loaded, world, slots=evaluation.section.batch, max_tokens=held, patience=_NEVER)


@contextmanager
def _answering(model: Qwen25VL) -> Iterator[None]:
    """Have the model answer: no dropout, nothing computed twice; everything as it was when the block ends."""
    trains, visual, text = model.training, model.visual, model.model
    recomputed = None if visual is None else visual.recompute_components
    recomputes = False if text is None else text.recompute_layers
    if model.dropout is not None:
        # The next micro batch of the training begins it anew.
        model.dropout.end()
    model.recompute(())
    model.set_train(False)
    try:
        yield
    finally:
        if visual is not None and recomputed is not None:
            visual.recompute_components = recomputed
        if text is not None:
            text.recompute_layers = recomputes
        model.set_train(trains)


def _measured(
    evaluation: Evaluation, found: dict[str, Prediction], seconds: float, step: int, signal_name: str | None
) -> Measured:
    rows = [answered_row(row, found[row.index]) for row in evaluation.rows]
    numbers: dict[str, float] = {}
    judgements = []
    for rules in evaluation.rule_sets:
        judged = judge_all(evaluation.benchmark, rows, rules)
        judgements.append(judged)
        scores = summarise(evaluation.benchmark.name, rules, judged)
        if not numbers:
            group = scores.headline
            numbers = {
                "eval_accuracy_percent": round(group.percent, 4),
                "eval_rows": group.rows,
                "eval_unreadable_percent": round(group.failed_percent, 4),
            }
        else:
            numbers[f"eval_accuracy_percent/{rules}"] = round(scores.headline.percent, 4)
    empty = sum(not one.prediction.strip() for one in found.values())
    note = (
        f"step {step}: {evaluation.benchmark.name} {numbers['eval_accuracy_percent']:.1f} % of "
        f"{numbers['eval_rows']:,} questions ({evaluation.rule_sets[0]}), {seconds:.1f} s"
        + (f"; {empty} answers were empty" if empty else "")
    )
    lines = [
        json.dumps({**asdict(found[one.row.index]), "score": one.score, "rule": one.rule}, ensure_ascii=False) + "\n"
        for one in judgements[0]
    ]
    return Measured(
        numbers={**numbers, "eval_s": round(seconds, 6)}, note=note, answers="".join(lines), signal_name=signal_name
    )


def _prediction(value: dict[str, Any]) -> Prediction:
    sizes = tuple((int(height), int(width)) for height, width in value["sizes"])
    return Prediction(**{**value, "images": tuple(value["images"]), "sizes": sizes})
