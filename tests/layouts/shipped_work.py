"""What the ranks of a launch do for a shipped recipe, and what the single process does: train, compare, report.

Optimizer, clipping, loss reduction, frozen components and recomputation are made from the recipe by the code that
`qvl run` uses. Case and reference have the same samples, and weights in which no norm is one and no bias zero.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from cases import Case
from comparison import RankResult, Reference, squares_of
from shipped_cases import LEARNING_RATE, micro_batch_counts, shipped_case, shipped_recipe
from specs import SPECS

_SEED = 5


def prepare() -> None:
    """Import MindSpore on one core: these small operations take three times as long on two."""
    from qvl_core import device
    from qvl_core.launch.rank_number import rank_from

    device.prepare("cpu")
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[(rank_from(os.environ) or 0) % len(cores)]})
    device.require_mindspore()


def run_case(case: Case, comm: Any, folder: Path, board: Any) -> dict[str, Any]:
    """Train a recipe on this rank of `comm`; a single process leaves its results in `folder` for the others."""
    from qvl_core.parallel.mpi import MpiWorld
    from qvl_core.parallel.single import SingleWorld

    shipped_case(case.spec)
    started = time.monotonic()
    if case.world_size == 1 and case != shipped_case(case.spec):
        trained = _train(case, SingleWorld(case.layout))
        found: Reference = {"losses": trained["losses"], "norms": trained["norms"]}
        reference_path(folder, case.spec).with_suffix(".json").write_text(json.dumps(found), encoding="utf-8")
        np.savez(reference_path(folder, case.spec), **trained["gradients"])
        return {"seconds": time.monotonic() - started, **found}
    world = MpiWorld(case.layout, SPECS[case.spec], board, comm=comm)
    trained = _train(case, world)
    world.close()
    place = world.place
    with np.load(reference_path(folder, case.spec)) as reference:
        squares = squares_of(case, trained["gradients"], reference, place.tp)
    result: RankResult = {
        "place": (place.pp, place.dp, place.tp),
        "losses": trained["losses"],
        "norms": trained["norms"],
        "squares": squares,
        "digests": trained["digests"],
    }
    return {"seconds": time.monotonic() - started, **result}


def reference_case(case: Case) -> Case:
    """Give the single process: all replicas' micro batches in one place, nothing cut, nothing recomputed."""
    spec = SPECS[case.spec]
    return replace(
        case,
        tp=1,
        pp=1,
        dp=1,
        vision_stages=(spec.vision.depth,),
        text_stages=(spec.text.num_layers,),
        zero1=False,
        recompute="none",
        accumulation=case.micro_batches,
    )


def reference_path(folder: Path, name: str) -> Path:
    """Say where the gradients of a recipe's single process are; losses and norms stand beside them."""
    return folder / f"{name}.npz"


def _train(case: Case, world: Any) -> dict[str, Any]:
    from engine import Witness, lively_weights
    from qvl_core.parallel.pipeline import Pipeline
    from qvl_core.parallel.stage import build_stage
    from qvl_train.step import TrainStep
    from qvl_train.worker import make_optimizer
    from shipped_batches import micro_batches

    recipe, spec, parallel = shipped_recipe(case.spec), SPECS[case.spec], shipped_case(case.spec)
    assert recipe.train is not None
    model = build_stage(spec, world, lively_weights(case, world))
    model.freeze(recipe.model.freeze)
    is_reference = case != parallel
    pipeline = Pipeline(model, world, recompute="none" if is_reference else recipe.layout.recompute)
    parameters = {parameter.name: parameter for parameter in pipeline.trainable}
    settings = recipe.model_copy(update={"layout": recipe.layout.model_copy(update={"zero1": case.zero1})})
    witness = Witness(make_optimizer(settings, world, parameters), case, world)
    take_step = TrainStep(
        pipeline,
        witness,
        world,
        spec,
        clip_norm=recipe.train.optimizer.clip_norm,
        reduction=recipe.train.loss_reduction,
    )
    drawn = micro_batches(spec, case.mix, parallel.micro_batches, _SEED)
    results = []
    for step, count in enumerate(micro_batch_counts(parallel), start=1):
        first, end = (0, parallel.dp) if is_reference else (world.place.dp, world.place.dp + 1)
        results.append(take_step(drawn[first * count : end * count], lr=LEARNING_RATE, step=step))
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    return {
        "losses": [result.loss for result in results],
        "norms": [result.gradient_norm for result in results],
        "gradients": {name: array.reshape(shapes[name]) for name, array in witness.gradients.items()},
        "digests": {name: zlib.crc32(np.ascontiguousarray(array).tobytes()) for name, array in model.named_arrays()},
    }
