"""The steps of a run: batches in, metrics and checkpoints out, until the last step or a signal. Every rank runs it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import mindspore as ms
from qvl_core.model import Qwen25VL
from qvl_core.parallel.pipeline import Pipeline
from qvl_core.parallel.world import World
from qvl_core.recipe.schema import Recipe
from qvl_core.recipe.sections import TrainSection
from qvl_data import PreparedData, batches

from qvl_train.agreement import together
from qvl_train.checkpoint import TrainingState, prune
from qvl_train.interrupt import Interrupt
from qvl_train.memory import host_peak_gib
from qvl_train.meter import Meter
from qvl_train.optimizer import Optimizer
from qvl_train.reports import Reports
from qvl_train.save import Contents, save_checkpoint
from qvl_train.schedule import learning_rate
from qvl_train.step import StepResult, TrainStep
from qvl_train.stored_tensor import StoredTensor
from qvl_train.straggler import Stragglers
from qvl_train.time_table import TimeTable
from qvl_train.validation import is_due, validate

_DTYPE_NAMES = {ms.float32: "F32", ms.float16: "F16", ms.bfloat16: "BF16"}


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that a rank's steps need, ready to go on after `first_step` steps."""

    recipe: Recipe
    world: World
    model: Qwen25VL
    pipeline: Pipeline
    optimizer: Optimizer
    data: PreparedData
    folder: Path
    run_id: str
    source_revision: str
    steps: int
    first_step: int
    stamp: Callable[[str], None] = lambda name: None
    """Keeps the time at which something was reached first, for the launcher."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the steps ended: `signal_name` if a signal stopped them, else all are done."""

    step: int
    checkpoint: Path | None
    signal_name: str | None


def run_steps(job: Job, reports: Reports) -> Outcome:
    """Train from `first_step` to the end, or until SIGINT or SIGTERM; either way what was reached is saved."""
    train = job.recipe.train
    assert train is not None, "a recipe for training has [train]"
    place, replicas = job.world.place, job.world.layout.dp
    step, saved, signal_name = job.first_step, None, None
    consumed = job.first_step * train.global_batch
    stragglers = Stragglers(job.world.layout, cast("list[str]", job.world.exchange(socket.gethostname())))
    meter, table = _meter(job, train), TimeTable()
    clock = meter.clock
    with (
        Interrupt() as interrupt,
        batches(job.data, recipe=job.recipe, consumed_samples=consumed, dp_rank=place.dp, dp_size=replicas) as source,
    ):
        take_step = _train_step(job, train, meter, interrupt)
        if step == 0 and is_due(job, 0):
            with table.between("validation", clock):
                validate(job, 0, reports)
        while step < job.steps and signal_name is None:
            job.world.phase = f"step {step + 1}"
            clock.switch("data")
            micro_batches = next(source)
            clock.switch("other")
            step += 1
            lr = _rate(train, step, job.steps)
            result = take_step(micro_batches, lr=lr, step=step)
            signal_name = result.signal_name
            job.stamp("first step")
            assert result.measures is not None, "there is a meter"
            row = _row(step, lr, result)
            table.add(row)
            if step % train.log.every == 0 or step == job.steps:
                reports.write(row)
            reports.advance(
                step,
                loss=result.loss,
                step_time_s=row["step_time_s"],
                tokens_per_s=row["tokens_per_s"],
                mfu=row.get("mfu"),
            )
            for line in stragglers.see(result.measures.compute_s):
                reports.note(f"step {step}: {line}")
            if is_due(job, step):
                with table.between("validation", clock):
                    validate(job, step, reports)
            # The step that ends the run is saved below, once: saving a step again removes what was saved of it.
            if step % train.save.every == 0 and step != job.steps and signal_name is None:
                with table.between("saving", clock):
                    saved = _save(job, step)
        if step > job.first_step:
            with table.between("saving", clock):
                saved = _save(job, step)
    _report_memory(job, reports)
    for line in table.lines():
        reports.note(line)
    return Outcome(step=step, checkpoint=saved, signal_name=signal_name)


def _meter(job: Job, train: TrainSection) -> Meter:
    return Meter(
        job.world,
        job.recipe.spec,
        freeze=job.recipe.model.freeze,
        peak_tflops=train.log.peak_tflops,
        padded_tokens=job.model.padded_tokens,
    )


def _train_step(job: Job, train: TrainSection, meter: Meter, interrupt: Interrupt) -> TrainStep:
    return TrainStep(
        job.pipeline,
        job.optimizer,
        job.world,
        job.recipe.spec,
        clip_norm=train.optimizer.clip_norm,
        reduction=train.loss_reduction,
        meter=meter,
        asked_to_stop=lambda: interrupt.signal_name,
    )


def _rate(train: TrainSection, step: int, steps: int) -> float:
    return learning_rate(
        step,
        steps=steps,
        peak=train.optimizer.lr,
        minimum=train.schedule.min_lr,
        warmup=train.schedule.warmup,
        name=train.schedule.name,
    )


def _row(step: int, lr: float, result: StepResult) -> dict[str, float]:
    assert result.measures is not None
    return {
        "step": step,
        "loss": result.loss,
        "gradient_norm": result.gradient_norm,
        "lr": lr,
        "tokens": result.tokens,
        "loss_tokens": result.loss_tokens,
        "samples": result.samples,
        **result.measures.numbers,
    }


def _save(job: Job, step: int) -> Path:
    train = job.recipe.train
    assert train is not None
    job.world.phase = f"saving step {step}"
    path = save_checkpoint(
        job.world,
        job.folder,
        TrainingState(
            step=step,
            consumed_samples=step * train.global_batch,
            run_id=job.run_id,
            has_optimizer=train.save.optimizer,
        ),
        Contents(weights=stored_weights(job.model), optimizer=job.optimizer.stored() if train.save.optimizer else None),
        spec=job.recipe.spec,
        side_files=Path(job.recipe.weights.source),
        source_revision=job.source_revision,
    )
    keep = train.save.keep

    def remove_old() -> None:
        if job.world.rank == 0:
            prune(job.folder, keep)

    together(job.world, remove_old)
    return path


def stored_weights(model: Qwen25VL) -> list[StoredTensor]:
    """List what this rank holds of the model, in table order."""
    return [
        StoredTensor(
            name=name, dtype=_DTYPE_NAMES[parameter.dtype], shape=tuple(parameter.shape), read=parameter.asnumpy
        )
        for name, parameter in model.named_parameters().items()
    ]


def _report_memory(job: Job, reports: Reports) -> None:
    """Tell every rank's largest resident memory so far, in rank order. Of the process, not of a device's memory."""
    reports.keep_memory(cast("list[float]", job.world.exchange(round(host_peak_gib(), 4))))
