"""One rank of a training run: prepare, join the others, read its part of the weights, train.

`run` is what each worker process calls (entry point group `qvl.workers`); a run in one process calls `train` itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from qvl_core.errors import OutputError, Problem, RunError
from qvl_core.run_folder import read_record
from rich.console import Console

from qvl_train.agreement import together

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from qvl_core.launch.board import Board
    from qvl_core.model import Qwen25VL
    from qvl_core.parallel.world import World
    from qvl_core.recipe.schema import Recipe
    from qvl_core.tasks import RunOptions
    from qvl_data import PreparedData

    from qvl_train.checkpoint import Checkpoint
    from qvl_train.job import Job
    from qvl_train.loop import Outcome
    from qvl_train.optimizer import Optimizer


def run(recipe: Recipe, options: RunOptions) -> None:
    """Train as one of several processes. The launcher has checked recipe, weights and data and holds the folder."""
    from qvl_core.launch.board import writer_from_environment
    from qvl_core.parallel.joining import join
    from qvl_data import prepare

    board = writer_from_environment()
    board.mark("reading the data")
    # The process that has started this one has looked at all data before.
    data = prepare(recipe, is_checked=True)
    world = join(recipe, board)
    train(recipe, options, data, world, board)
    world.close()


def train(recipe: Recipe, options: RunOptions, data: PreparedData, world: World, board: Board) -> None:
    """Train on this rank, from the newest checkpoint where there is one; the first rank speaks to people."""
    from qvl_train.loop import run_steps
    from qvl_train.metrics import MetricsLog
    from qvl_train.progress import TrainingProgress
    from qvl_train.reports import FirstRankReports, NoReports

    assert recipe.train is not None
    folder = Path(recipe.output.dir)
    console = Console(quiet=world.rank != 0)
    job = _prepare_job(recipe, options, data, world, console, board)
    if world.rank != 0:
        run_steps(job, NoReports())
        return
    what = f"from step {job.first_step} " if job.first_step else ""
    say(console, f"training {what}to step {job.steps}; everything goes to {folder}")
    with (
        MetricsLog(folder, step=job.first_step, tensorboard=recipe.train.log.tensorboard) as metrics,
        TrainingProgress(console, first_step=job.first_step, steps=job.steps) as progress,
    ):
        outcome = run_steps(job, FirstRankReports(folder, metrics, progress))
    if outcome.signal_name is not None and outcome.step < job.steps:
        say(console, _stopped(outcome))


def say(console: Console, text: str) -> None:
    """Print a line as it is."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def _prepare_job(
    recipe: Recipe, options: RunOptions, data: PreparedData, world: World, console: Console, board: Board
) -> Job:
    from qvl_core.evaluators import load_evaluator
    from qvl_core.parallel.pipeline import Pipeline

    from qvl_train.bad_sample_file import bad_samples_of
    from qvl_train.checkpoint import read_optimizer
    from qvl_train.job import Job
    from qvl_train.resume import choose_checkpoint, require_own
    from qvl_train.schedule import count_steps
    from qvl_train.vision_cache import use_features

    assert recipe.train is not None
    folder = Path(recipe.output.dir)
    record = _agree(recipe, data, world)
    world.phase = "choosing a checkpoint"
    start = choose_checkpoint(world, folder, options.resume, lambda text: say(console, text))
    if start is not None:
        require_own(start, str(record["run_id"]), record["known_data"])
    world.phase = "reading the weights"
    model = _load_model(recipe, world, start, str(record["weights"]), reshard=options.reshard)
    pipeline = Pipeline(model, world, recompute=recipe.layout.recompute)
    optimizer = make_optimizer(recipe, world, {parameter.name: parameter for parameter in pipeline.trainable})
    if start is not None:
        shapes = {tensor.name: tensor.shape for tensor in optimizer.stored()}
        together(world, lambda: optimizer.load(read_optimizer(start, world.layout, world.place, shapes)))
    else:
        together(world, lambda: refine_masters(recipe, world, optimizer, reshard=options.reshard))
    board.stamp("loaded")
    if recipe.data.vision_cache:
        data = use_features(recipe, data, model, world, lambda text: say(console, text))
    return Job(
        recipe=recipe,
        world=world,
        model=model,
        pipeline=pipeline,
        optimizer=optimizer,
        data=data,
        folder=folder,
        run_id=str(record["run_id"]),
        source_revision=str(record["weights"]),
        steps=count_steps(recipe.train, data),
        first_step=start.state.step if start is not None else 0,
        consumed_samples=start.state.consumed_samples if start is not None else 0,
        bad_samples=bad_samples_of(recipe, world, folder),
        evaluator=load_evaluator(recipe),
        stamp=board.stamp,
    )


def _load_model(recipe: Recipe, world: World, start: Checkpoint | None, revision: str, *, reshard: bool) -> Qwen25VL:
    """Build this rank's part of the model, from a checkpoint or as the run begins. All ranks fail together."""
    from qvl_core.parallel.stage import build_stage

    from qvl_train.adapter import check_adapters, with_factors
    from qvl_train.checkpoint import read_weights

    assert recipe.train is not None
    lora, dtype, seed = recipe.lora, str(recipe.model.dtype), recipe.train.seed
    built: list[Qwen25VL] = []

    def build() -> None:
        if start is not None:
            check_adapters(start, recipe, revision)
        if start is not None and lora is None:
            arrays = read_weights(start, world.layout, world.place)
        else:
            arrays = initial_weights(recipe, world, reshard=reshard)
        if lora is not None:
            arrays = with_factors(arrays, recipe, world, start)
        model = build_stage(recipe.spec, world, arrays, dtype, lora=lora, seed=seed)
        model.freeze(recipe.model.freeze if lora is None else ())
        built.append(model)

    together(world, build)
    return built[0]


def make_optimizer(recipe: Recipe, world: World, parameters: dict[str, Any]) -> Optimizer:
    """Give the recipe's optimizer for these parameters, by their names in the parameter table."""
    from qvl_core.lora_table import weight_table

    from qvl_train.optimizer import AdamW, AdamWSettings
    from qvl_train.sliced_optimizer import SlicedAdamW

    assert recipe.train is not None
    chosen = recipe.train.optimizer
    settings = AdamWSettings(
        beta1=chosen.betas[0],
        beta2=chosen.betas[1],
        eps=chosen.eps,
        weight_decay=chosen.weight_decay,
        lr_scale=chosen.lr_scale.model_dump(),
    )
    kind = SlicedAdamW if recipe.layout.zero1 else AdamW
    return kind(parameters, weight_table(recipe.spec, recipe.lora), settings, world.data)


def initial_weights(recipe: Recipe, world: World, *, reshard: bool) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield this rank's part of the weights that a run starts from: read, or drawn from the recipe's seed."""
    assert recipe.train is not None
    if recipe.weights.init == "random":
        from qvl_core.parallel.stage import random_local_weights

        return random_local_weights(recipe.spec, recipe.train.seed, world.layout, world.place)
    from qvl_core.weights.local_tensors import local_values
    from qvl_core.weights.whole_tensors import whole_tensors_of
    from qvl_core.weights_fit import open_weights

    source = whole_tensors_of(open_weights(recipe, reshard=reshard))
    return local_values(source, world.layout, world.place.pp, world.place.tp)


def refine_masters(recipe: Recipe, world: World, optimizer: Optimizer, *, reshard: bool) -> None:
    """Give the master weights what rounding to the model's dtype took from the weights that a run starts from.

    Reads the weights once more, and only where something was lost: a bfloat16 model of a bfloat16 checkpoint has its
    masters already.
    """
    from qvl_core.weights.optimizer_state import split_name
    from qvl_core.weights.whole_tensors import whole_tensors_of
    from qvl_core.weights_fit import open_weights

    held = {parameter for parameter, kind in (split_name(one.name) for one in optimizer.stored()) if kind == "master"}
    if not held or recipe.model.dtype == "float32":
        return
    if recipe.weights.init != "random":
        tensors = whole_tensors_of(open_weights(recipe, reshard=reshard)).tensors
        if all(tensors[name].dtype == "BF16" for name in held & tensors.keys()):
            return
    optimizer.refine(initial_weights(recipe, world, reshard=reshard))


def _agree(recipe: Recipe, data: PreparedData, world: World) -> dict[str, Any]:
    """Give all ranks the first rank's record of the run. Raises OutputError where a machine has other data."""
    folder = Path(recipe.output.dir)

    def look() -> dict[str, Any]:
        record = read_record(folder) if world.rank == 0 else None
        if world.rank == 0 and record is None:
            raise RunError(f"{folder}: run.json is gone; another process has removed it")
        if record is None:
            return {"data": data.data_hash}
        known = sorted({data.data_hash, *record.data_hashes()})
        return {
            "data": data.data_hash,
            "known_data": known,
            "run_id": record.run_id,
            "weights": record.hashes["weights"],
        }

    found = [cast("dict[str, Any]", value) for value in together(world, look)]
    for rank, other in enumerate(found):
        if other["data"] != found[0]["data"]:
            message = (
                "the data is not the same on all machines:\n"
                f"rank 0 reads {found[0]['data'][:12]}, rank {rank} reads {other['data'][:12]}"
            )
            fix = "put the same files on all machines, best on a shared file system"
            raise OutputError(Problem(where=recipe.path, key="data.sources", message=message, fix=fix))
    return found[0]


def _stopped(outcome: Outcome) -> str:
    saved = f"saved as {outcome.checkpoint}" if outcome.checkpoint is not None else "nothing new to save"
    return f"stopped by {outcome.signal_name} after step {outcome.step}, {saved}; the same command goes on from there"
