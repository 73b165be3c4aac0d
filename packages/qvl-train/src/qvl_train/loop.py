"""The steps of a run: batches in, metrics and checkpoints out, until the last step or a signal. Every rank runs it."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import mindspore as ms
from qvl_core.lora_table import is_factor
from qvl_core.model import Qwen25VL
from qvl_core.parallel.pipeline import Pipeline
from qvl_core.parallel.world import World
from qvl_core.recipe.schema import Recipe
from qvl_core.recipe.sections import TrainSection
from qvl_data import PreparedData, batches, validation_batches

from qvl_train.agreement import together
from qvl_train.checkpoint import TrainingState, prune
from qvl_train.interrupt import Interrupt
from qvl_train.optimizer import Optimizer
from qvl_train.reports import Reports
from qvl_train.save import Contents, save_checkpoint
from qvl_train.schedule import learning_rate
from qvl_train.step import StepResult, TrainStep, validation_loss
from qvl_train.stored_tensor import StoredTensor

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
    with (
        Interrupt() as interrupt,
        batches(job.data, recipe=job.recipe, consumed_samples=consumed, dp_rank=place.dp, dp_size=replicas) as source,
    ):
        take_step = _train_step(job, train, interrupt)
        while step < job.steps and signal_name is None:
            started = time.perf_counter()
            job.world.phase = f"step {step + 1}"
            micro_batches = next(source)
            fetched = time.perf_counter()
            step += 1
            lr = _rate(train, step, job.steps)
            result = take_step(micro_batches, lr=lr, step=step)
            signal_name = result.signal_name
            job.stamp("first step")
            row = _row(step, lr, result, data_s=fetched - started, step_time_s=time.perf_counter() - started)
            if step % train.log.every == 0 or step == job.steps:
                reports.write(row)
            reports.advance(step, loss=result.loss, step_time_s=row["step_time_s"], tokens_per_s=row["tokens_per_s"])
            _validate(job, step, reports)
            # The step that ends the run is saved below, once: saving a step again removes what was saved of it.
            if step % train.save.every == 0 and step != job.steps and signal_name is None:
                saved = _save(job, step)
        if step > job.first_step:
            saved = _save(job, step)
    _report_memory(job, reports)
    return Outcome(step=step, checkpoint=saved, signal_name=signal_name)


def _train_step(job: Job, train: TrainSection, interrupt: Interrupt) -> TrainStep:
    return TrainStep(
        job.pipeline,
        job.optimizer,
        job.world,
        job.recipe.spec,
        clip_norm=train.optimizer.clip_norm,
        reduction=train.loss_reduction,
        lora=job.recipe.lora,
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


def _row(step: int, lr: float, result: StepResult, *, data_s: float, step_time_s: float) -> dict[str, float]:
    return {
        "step": step,
        "loss": result.loss,
        "gradient_norm": result.gradient_norm,
        "lr": lr,
        "tokens": result.tokens,
        "loss_tokens": result.loss_tokens,
        "samples": result.samples,
        "step_time_s": round(step_time_s, 6),
        "data_s": round(data_s, 6),
        "gradient_s": round(result.gradient_s, 6),
        "optimizer_s": round(result.optimizer_s, 6),
        "compute_s": round(result.compute_s, 6),
        "communication_s": round(result.communication_s, 6),
        "waiting_s": round(result.waiting_s, 6),
        "tokens_per_s": round(result.tokens / step_time_s, 1),
    }


def _validate(job: Job, step: int, reports: Reports) -> None:
    train = job.recipe.train
    assert train is not None
    if job.data.validation is None or (step % train.log.validate_every != 0 and step != job.steps):
        return
    job.world.phase = f"validation after step {step}"
    held_out = validation_batches(job.data, recipe=job.recipe, dp_rank=job.world.place.dp, dp_size=job.world.layout.dp)
    loss = validation_loss(job.pipeline, job.world, held_out)
    reports.write({"step": step, "validation_loss": loss})
    reports.note(f"step {step}: validation loss {loss:.4f}")


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
        lora=job.recipe.lora,
    )
    keep = train.save.keep

    def remove_old() -> None:
        if job.world.rank == 0:
            prune(job.folder, keep)

    together(job.world, remove_old)
    return path


def stored_weights(model: Qwen25VL) -> list[StoredTensor]:
    """List what this rank holds of what a checkpoint keeps, in table order: adapters only, where there are any."""
    return [
        StoredTensor(
            name=name, dtype=_DTYPE_NAMES[parameter.dtype], shape=tuple(parameter.shape), read=parameter.asnumpy
        )
        for name, parameter in model.named_parameters().items()
        if model.dropout is None or is_factor(name)
    ]


def _report_memory(job: Job, reports: Reports) -> None:
    """Tell every rank's largest resident memory so far, in rank order. Of the process, not of a device's memory."""
    # Linux counts in KiB.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    reports.keep_memory(cast("list[float]", job.world.exchange(round(peak, 4))))
