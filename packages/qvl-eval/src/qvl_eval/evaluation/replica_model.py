"""The model of one replica, or one rank's part of it, with the driver that answers through it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qvl_eval.answers.driver import Driver, make_driver, window_of
from qvl_eval.answers.model import (
    LoadedModel,
    answering_options,
    load_model,
    local_weights,
    open_for_answers,
    processor_of,
)

if TYPE_CHECKING:
    from qvl_core.parallel.world import World

    from qvl_eval.evaluation.setting import Evaluation


def load_replica(evaluation: Evaluation, world: World | None) -> tuple[LoadedModel, Driver]:
    """Load what this process holds of the recipe's weights; in a `world` that cuts the model, its rank's part."""
    recipe, slots = evaluation.recipe, evaluation.section.batch
    if world is None or world.layout.tp * world.layout.pp == 1:
        loaded = load_model(recipe)
        return loaded, make_driver(loaded, slots=slots, max_tokens=_held(evaluation, loaded))
    loaded = _load_part(evaluation, world)
    return loaded, driver_of_part(loaded, world, slots=slots, max_tokens=_held(evaluation, loaded))


def driver_of_part(
    loaded: LoadedModel, world: World, *, slots: int, max_tokens: int, patience: int | None = None
) -> Driver:
    """Make a driver over one rank's part of a model: every rank of a replica makes the same calls of it.

    `patience` is how many steps it waits before it compiles anything; the engine's own without it.
    """
    from qvl_core.answer_sizes import blocks
    from qvl_core.generate.engine import PATIENCE, Engine
    from qvl_core.generate.scheduler import Scheduler

    patience = PATIENCE if patience is None else patience
    engine = Engine(loaded.model, slots, blocks(max_tokens), world=world, patience=patience)
    scheduler = Scheduler(loaded.model, slots=slots, max_tokens=max_tokens, engine=engine)
    return Driver(scheduler, loaded.processor.chat.decode)


def _held(evaluation: Evaluation, loaded: LoadedModel) -> int:
    return evaluation.section.held_tokens or window_of(loaded)


def _load_part(evaluation: Evaluation, world: World) -> LoadedModel:
    from qvl_core.parallel.stage import build_stage

    recipe = evaluation.recipe
    weights = open_for_answers(recipe)
    processor = processor_of(recipe, weights)
    arrays = local_weights(recipe, world.place.pp, world.place.tp)
    model = build_stage(recipe.spec, world, arrays, recipe.model.dtype or "float32")
    model.set_train(False)
    return LoadedModel(model=model, processor=processor, options=answering_options(recipe, weights))
