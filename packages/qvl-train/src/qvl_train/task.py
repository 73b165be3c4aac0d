"""`qvl run` of a recipe with task = "sft": check everything, then train, then export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvl_core.durable import FolderLock, remove_leftovers
from qvl_core.errors import EXIT_DONE, OutputError, Problem, RecipeError, RunError, WeightsError
from qvl_core.run_folder import RunRecord, check_continues, check_unchanged, check_writable, read_record
from qvl_core.weights_fit import where_of
from rich.console import Console
from rich.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from qvl_core.recipe.schema import Recipe
    from qvl_core.tasks import RunOptions
    from qvl_core.weights.hf_folder import HFFolder
    from qvl_core.weights.sharded_folder import ShardedFolder
    from qvl_data import PreparedData

    from qvl_train.checkpoint import Checkpoint
    from qvl_train.loop import Job, Outcome


def run(recipe: Recipe, options: RunOptions) -> int:
    """Train as the recipe says and give the exit code. Nothing is written before every input has been checked."""
    console = Console(stderr=False)
    folder = Path(recipe.output.dir)
    _refuse_later_features(recipe)
    check_writable(folder)
    record = _past_run(folder, recipe, options.resume)
    weights = _check_weights(recipe, reshard=options.reshard)
    data = _check_data(recipe, console)
    hashes = {"data": data.data_hash, "weights": _weights_hash(recipe, weights)}
    if record is not None:
        check_continues(record, folder, recipe.resolved(), hashes)
    if record is not None and record.result is not None and options.resume == "auto":
        console.print(f"{folder} holds this run, finished: {_finished(record)}", highlight=False, soft_wrap=True)
        return EXIT_DONE
    with FolderLock(folder):
        check_unchanged(record, folder)
        remove_leftovers(folder)
        start = _start(folder, options.resume, console) if record is not None else None
        record = replace(record, result=None) if record else RunRecord.start(recipe.resolved(), hashes)
        record.write(folder)
        return _train(recipe, weights, data, record, start, console)


def _train(
    recipe: Recipe,
    weights: HFFolder | ShardedFolder | None,
    data: PreparedData,
    record: RunRecord,
    start: Checkpoint | None,
    console: Console,
) -> int:
    _prepare_device(recipe)
    from qvl_train.loop import run_steps
    from qvl_train.metrics import MetricsLog
    from qvl_train.progress import TrainingProgress

    folder = Path(recipe.output.dir)
    train = recipe.train
    assert train is not None
    job = _prepare_job(recipe, weights, data, record, start)
    what = f"from step {job.first_step} " if job.first_step else ""
    console.print(f"training {what}to step {job.steps}; everything goes to {folder}", highlight=False, soft_wrap=True)
    with (
        MetricsLog(folder, step=job.first_step, tensorboard=train.log.tensorboard) as metrics,
        TrainingProgress(console, first_step=job.first_step, steps=job.steps) as progress,
    ):
        outcome = run_steps(job, metrics, progress)
    if outcome.signal_name is not None and outcome.step < job.steps:
        _say_stopped(outcome, console)
        return EXIT_DONE
    _finish(job, record, outcome, console)
    return EXIT_DONE


def _prepare_device(recipe: Recipe) -> None:
    """Set what has to be set before mindspore is imported, which the modules of the loop do."""
    from qvl_core import device
    from qvl_core.params import parameter_count

    device.prepare(recipe.launch.device)
    device.confine_small_model(parameter_count(recipe.spec))
    device.require_mindspore()


def _prepare_job(
    recipe: Recipe,
    weights: HFFolder | ShardedFolder | None,
    data: PreparedData,
    record: RunRecord,
    start: Checkpoint | None,
) -> Job:
    from qvl_core.model import Qwen25VL
    from qvl_core.params import parameter_table

    from qvl_train.checkpoint import read_optimizer, read_weights
    from qvl_train.loop import Job, count_steps
    from qvl_train.optimizer import AdamW, AdamWSettings

    train, dtype = recipe.train, recipe.model.dtype
    assert train is not None
    assert dtype is not None, "the recipe fills it in"
    arrays = read_weights(start) if start is not None else _initial_weights(recipe, weights)
    model = Qwen25VL.from_spec(recipe.spec, arrays, dtype)
    model.freeze(recipe.model.freeze)
    chosen = train.optimizer
    trainable = {name: value for name, value in model.named_parameters().items() if value.requires_grad}
    optimizer = AdamW(
        trainable,
        parameter_table(recipe.spec),
        AdamWSettings(
            beta1=chosen.betas[0],
            beta2=chosen.betas[1],
            eps=chosen.eps,
            weight_decay=chosen.weight_decay,
            lr_scale=chosen.lr_scale.model_dump(),
        ),
    )
    if start is not None:
        optimizer.load_state(read_optimizer(start, optimizer.state_shapes()))
    return Job(
        recipe=recipe,
        model=model,
        optimizer=optimizer,
        data=data,
        folder=Path(recipe.output.dir),
        run_id=record.run_id,
        source_revision=record.hashes["weights"],
        steps=count_steps(train, data),
        first_step=start.state.step if start is not None else 0,
    )


def _initial_weights(
    recipe: Recipe, weights: HFFolder | ShardedFolder | None
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    assert recipe.train is not None
    if weights is None:
        from qvl_core.model.initialize import random_weights

        yield from random_weights(recipe.spec, recipe.train.seed)
        return
    from qvl_core.weights.local_tensors import local_values
    from qvl_core.weights.whole_tensors import whole_tensors_of

    # One process, which is the first and only rank of its layout.
    yield from local_values(whole_tensors_of(weights), recipe.parallel, 0, 0)


def _refuse_later_features(recipe: Recipe) -> None:
    train = recipe.train
    assert train is not None, "the schema asks for [train] when task is sft"
    problems = []
    if train.lora is not None:
        message = "adapters are not in this version of qvl-train yet; it trains all weights that are not frozen"
        problems.append(
            Problem(where=where_of(recipe, "train.lora"), key="train.lora", message=message, fix="remove it")
        )
    if recipe.layout.recompute != "none":
        message = "recomputing activations is not in this version of qvl-train yet"
        key = "layout.recompute"
        problems.append(Problem(where=where_of(recipe, key), key=key, message=message, fix=f"--set {key}=none"))
    if problems:
        raise RecipeError(problems)


def _past_run(folder: Path, recipe: Recipe, resume: str) -> RunRecord | None:
    """Give the record of the run to continue, None for a new run. Refuses what the options rule out."""
    record = read_record(folder)
    if record is None:
        if resume not in ("auto", "never"):
            message = f"holds no run, so there is nothing to continue from {resume}"
            raise OutputError(Problem(where=str(folder), key="--resume", message=message, fix="leave --resume out"))
        return None
    if resume == "never":
        message = f"holds run {record.run_id} (started {record.started}), and --resume never forbids to go on with it"
        fix = "remove the folder, or choose another one: --set output.dir=runs/another_name"
        raise OutputError(Problem(where=str(folder), key="output.dir", message=message, fix=fix))
    # The hashes are compared later; they need the data to be read.
    check_continues(record, folder, recipe.resolved(), record.hashes)
    return record


def _check_weights(recipe: Recipe, *, reshard: bool) -> HFFolder | ShardedFolder | None:
    """Open the starting weights and check that they fit; None when they are random."""
    from qvl_core.specs import load_spec
    from qvl_core.weights_fit import check_weights, open_weights

    if recipe.weights.init == "checkpoint":
        return open_weights(recipe, reshard=reshard)
    problems = check_weights(recipe)
    if problems:
        raise WeightsError(problems)
    load_spec(recipe.weights.source)  # Says what is wrong where the folder is missing.
    return None


def _check_data(recipe: Recipe, console: Console) -> PreparedData:
    from qvl_data import prepare

    with _checking_progress(console) as progress:
        data = prepare(recipe, progress=progress)
    for line in data.report.lines():
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    return data


@contextmanager
def _checking_progress(console: Console) -> Iterator[Any]:
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield show


def _weights_hash(recipe: Recipe, weights: HFFolder | ShardedFolder | None) -> str:
    from qvl_core.weights.fingerprint import config_digest, fingerprint

    if weights is not None:
        return fingerprint(weights)
    assert recipe.train is not None
    return f"random:{recipe.train.seed}:{config_digest(Path(recipe.weights.source))}"


def _start(folder: Path, resume: str, console: Console) -> Checkpoint | None:
    """Open the checkpoint to continue from; None when the run was stopped before its first one."""
    from qvl_train.checkpoint import newest_checkpoint, requested_checkpoint

    if resume != "auto":
        return requested_checkpoint(folder, Path(resume))
    found, passed_over = newest_checkpoint(folder)
    for text in passed_over:
        console.print(f"passed over a checkpoint that cannot be used:\n{text}", highlight=False, markup=False)
    if found is None and passed_over:
        raise RunError(
            f"{folder}: none of its {len(passed_over)} checkpoints can be used\n"
            "fix: restore one, or start again in another folder: --set output.dir=runs/another_name"
        )
    return found


def _say_stopped(outcome: Outcome, console: Console) -> None:
    saved = f"saved as {outcome.checkpoint}" if outcome.checkpoint is not None else "nothing new to save"
    console.print(
        f"stopped by {outcome.signal_name} after step {outcome.step}, {saved}; the same command goes on from there",
        highlight=False,
        soft_wrap=True,
    )


def _finish(job: Job, record: RunRecord, outcome: Outcome, console: Console) -> None:
    from qvl_train.export import export_hf
    from qvl_train.metrics import read_metrics
    from qvl_train.progress import sparkline

    train = job.recipe.train
    assert train is not None
    rows = [row for row in read_metrics(job.folder / "metrics.jsonl") if "loss" in row]
    losses = [row["loss"] for row in rows]
    result: dict[str, Any] = {"steps": job.steps, "loss_first": losses[0], "loss_last": losses[-1]}
    if train.save.export_hf:
        result["hf"] = str(export_hf(job.model, Path(job.recipe.weights.source), job.folder))
    replace(record, result=result).write(job.folder)
    console.print(f"loss {losses[0]:.4f} {sparkline(losses)} {losses[-1]:.4f}", highlight=False, soft_wrap=True)
    if "hf" in result:
        console.print(f"HF checkpoint: {result['hf']}", highlight=False, soft_wrap=True)


def _finished(record: RunRecord) -> str:
    result = record.result or {}
    return f"step {result.get('steps')}, loss {result.get('loss_last'):.4f}, HF checkpoint {result.get('hf', 'none')}"
