"""`qvl run` of a recipe with task = "sft": check everything, train in one process or several, then export.

Here is what the process does that the user started; what trains is in `worker`. Nothing here imports mindspore.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvl_core.durable import FolderLock, remove_leftovers
from qvl_core.errors import EXIT_DONE, OutputError, Problem, WeightsError
from qvl_core.run_folder import (
    RunRecord,
    check_continues,
    check_unchanged,
    check_writable,
    read_record,
    recorded_files,
)
from rich.console import Console
from rich.progress import Progress

if TYPE_CHECKING:
    from qvl_core.recipe.schema import Recipe
    from qvl_core.tasks import RunOptions
    from qvl_core.weights.hf_folder import HFFolder
    from qvl_core.weights.sharded_folder import ShardedFolder
    from qvl_data import PreparedData


def run(recipe: Recipe, options: RunOptions) -> int:
    """Train as the recipe says and give the exit code. Nothing is written before every input has been checked."""
    from qvl_train.continuation import continue_record
    from qvl_train.schedule import count_steps

    assert recipe.train is not None, "the schema asks for [train] when task is sft"
    console = Console(stderr=False)
    folder = Path(recipe.output.dir)
    check_writable(folder)
    # Of several machines the first one keeps the folder; on the others its record may appear at any moment.
    is_first = options.node_rank in (None, 0)
    record = _past_run(folder, recipe, options) if is_first else read_record(folder)
    weights = _check_weights(recipe, reshard=options.reshard)
    data = _check_data(recipe, console)
    _check_evaluation(recipe, console)
    hashes = {"data": data.data_hash, "weights": _weights_hash(recipe, weights)}
    changes: list[str] = []
    if record is not None:
        changes = check_continues(record, folder, recipe.resolved(), hashes, accept=options.accept_changes)
    if record is not None and record.result is not None and options.resume == "auto" and not changes:
        _say(console, f"{folder} holds this run, finished: {_finished(record)}")
        return EXIT_DONE
    if not is_first:
        _train(recipe, options, data)
        return EXIT_DONE
    if record is None:
        _check_room(recipe, folder, console)
    with FolderLock(folder):
        check_unchanged(record, folder)
        remove_leftovers(folder)
        if record is None:
            record = RunRecord.start(recipe.resolved(), hashes, files=recorded_files(data.files))
        else:
            _check_room(recipe, folder, console)
            record = continue_record(
                record,
                recipe,
                hashes,
                changes,
                files=recorded_files(data.files),
                resume=options.resume,
                steps=count_steps(recipe.train, data),
                say=lambda text: _say(console, text),
            )
        record.write(folder)
        _train(recipe, options, data)
        _finish(recipe, record, data, console)
    return EXIT_DONE


def _train(recipe: Recipe, options: RunOptions, data: PreparedData) -> None:
    """Run the steps, here or in processes of their own. Raises the error that the first failing one ended with."""
    if recipe.parallel.world_size > 1:
        assert options.start_workers is not None, "the command `qvl run` says how to start workers"
        options.start_workers()
        return
    from qvl_core.parallel.joining import prepare_device

    # Before the modules of the loop are imported.
    prepare_device(recipe)
    from qvl_core.launch.board import NullBoard
    from qvl_core.parallel.single import SingleWorld

    from qvl_train import worker

    worker.train(recipe, options, data, SingleWorld(recipe.parallel), NullBoard())


def _past_run(folder: Path, recipe: Recipe, options: RunOptions) -> RunRecord | None:
    """Give the record of the run to continue, None for a new run. Refuses what the options rule out."""
    record, resume = read_record(folder), options.resume
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
    check_continues(record, folder, recipe.resolved(), record.hashes, accept=options.accept_changes)
    return record


def _check_room(recipe: Recipe, folder: Path, console: Console) -> None:
    from qvl_train.room import check_room

    warning = check_room(recipe, folder)
    if warning:
        _say(console, warning)


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
        _say(console, line)
    return data


def _check_evaluation(recipe: Recipe, console: Console) -> None:
    """Look at what the model will be evaluated on. Raises NotInstalledError, InputError."""
    from qvl_core.evaluators import load_evaluator

    evaluator = load_evaluator(recipe)
    for line in evaluator.check() if evaluator is not None else ():
        _say(console, f"warning: {line}")


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


def _finish(recipe: Recipe, record: RunRecord, data: PreparedData, console: Console) -> None:
    """Export and write the result, if the last step was reached; a signal may have come before."""
    from qvl_train.adapter import export_adapter, merge_advice
    from qvl_train.checkpoint import checkpoint_path, list_steps
    from qvl_train.export import export_hf
    from qvl_train.metrics import read_metrics
    from qvl_train.progress import sparkline
    from qvl_train.reports import MEMORY_KEY, read_memory
    from qvl_train.schedule import count_steps

    assert recipe.train is not None
    folder, steps = Path(recipe.output.dir), count_steps(recipe.train, data)
    rows = read_metrics(folder / "metrics.jsonl")
    # Not from the rows: they are not synced, and a power cut or a full disk may have cost the last of them.
    if next((step for step, _ in list_steps(folder)), 0) != steps:
        return
    losses = [row["loss"] for row in rows if "loss" in row]
    result: dict[str, Any] = {"steps": steps}
    if losses:
        result |= {"loss_first": losses[0], "loss_last": losses[-1], **_medians(rows)}
    validations = [row["validation_loss"] for row in rows if "validation_loss" in row]
    if validations:
        result |= {"validation_loss_first": validations[0], "validation_loss_last": validations[-1]}
    memory = read_memory(folder)
    if memory is not None:
        result[MEMORY_KEY] = memory
    if recipe.train.lora is not None:
        result["adapter"] = str(export_adapter(recipe, checkpoint_path(folder, steps), folder))
    elif recipe.train.save.export_hf:
        result["hf"] = str(export_hf(checkpoint_path(folder, steps), folder))
    replace(record, result=result).write(folder)
    if losses:
        _say(console, f"loss {losses[0]:.4f} {sparkline(losses)} {losses[-1]:.4f}")
    if "hf" in result:
        _say(console, f"HF checkpoint: {result['hf']}")
    if "adapter" in result:
        _say(console, f"PEFT adapter: {result['adapter']}")
        _say(console, merge_advice(recipe, Path(result["adapter"])))


def _medians(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Give what `[expected]` of a recipe states of a run's speed."""
    steps = [row for row in rows if "loss" in row]
    return {key: statistics.median(row[key] for row in steps) for key in ("step_time_s", "tokens_per_s")}


def _finished(record: RunRecord) -> str:
    result = record.result or {}
    made = f"adapter {result['adapter']}" if "adapter" in result else f"HF checkpoint {result.get('hf', 'none')}"
    loss = f"loss {result['loss_last']:.4f}, " if "loss_last" in result else ""
    return f"step {result.get('steps')}, {loss}{made}"


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)
