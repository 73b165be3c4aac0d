"""The steps of a run: batches in, metrics and checkpoints out, until the last step or a signal."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvl_core.batch import Batch
from qvl_core.model import Qwen25VL
from qvl_core.recipe.schema import Recipe
from qvl_core.recipe.sections import TrainSection
from qvl_data import PreparedData, batches, validation_batches

from qvl_train.checkpoint import TrainingState, prune, save_checkpoint
from qvl_train.interrupt import Interrupt
from qvl_train.metrics import MetricsLog
from qvl_train.optimizer import AdamW
from qvl_train.progress import TrainingProgress
from qvl_train.schedule import learning_rate
from qvl_train.step import StepResult, TrainStep, validation_loss


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that the steps need, ready to go on after `first_step` steps."""

    recipe: Recipe
    model: Qwen25VL
    optimizer: AdamW
    data: PreparedData
    folder: Path
    run_id: str
    source_revision: str
    steps: int
    first_step: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the steps ended: `signal_name` if a signal stopped them, else all are done."""

    step: int
    checkpoint: Path | None
    signal_name: str | None


def count_steps(train: TrainSection, data: PreparedData) -> int:
    """Give the number of optimizer steps: stated, or the whole global batches in the stated epochs, at least 1."""
    if train.steps is not None:
        return train.steps
    assert train.epochs is not None, "the schema allows steps or epochs"
    return max(1, train.epochs * data.report.epoch_length // train.global_batch)


def run_steps(job: Job, metrics: MetricsLog, progress: TrainingProgress) -> Outcome:
    """Train from `first_step` to the end, or until SIGINT or SIGTERM; either way what was reached is saved."""
    train = job.recipe.train
    assert train is not None, "a recipe for training has [train]"
    take_step = TrainStep(job.model, job.optimizer, clip_norm=train.optimizer.clip_norm, reduction=train.loss_reduction)
    consumed = job.first_step * train.global_batch
    step, saved = job.first_step, None
    with Interrupt() as interrupt, batches(job.data, recipe=job.recipe, consumed_samples=consumed) as source:
        while step < job.steps and interrupt.signal_name is None:
            started = time.perf_counter()
            micro_batches = next(source)
            fetched = time.perf_counter()
            step += 1
            lr = _rate(train, step, job.steps)
            result = take_step(micro_batches, lr=lr, step=step)
            row = _row(step, lr, result, data_s=fetched - started, step_time_s=time.perf_counter() - started)
            if step % train.log.every == 0 or step == job.steps:
                metrics.write(row)
            progress.advance(step, loss=row["loss"], step_time_s=row["step_time_s"], tokens_per_s=row["tokens_per_s"])
            _validate(job, step, metrics, progress)
            if step % train.save.every == 0 and step != job.steps:
                saved = _save(job, step)
        if step > job.first_step:
            saved = _save(job, step)
        return Outcome(step=step, checkpoint=saved, signal_name=interrupt.signal_name)


def _rate(train: TrainSection, step: int, steps: int) -> float:
    return learning_rate(
        step,
        steps=steps,
        peak=train.optimizer.lr,
        minimum=train.schedule.min_lr,
        warmup=train.schedule.warmup,
        name=train.schedule.name,
    )


def _row(step: int, lr: float, result: StepResult, *, data_s: float, step_time_s: float) -> dict[str, Any]:
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
        "tokens_per_s": round(result.tokens / step_time_s, 1),
    }


def _validate(job: Job, step: int, metrics: MetricsLog, progress: TrainingProgress) -> None:
    train = job.recipe.train
    assert train is not None
    if job.data.validation is None or (step % train.log.validate_every != 0 and step != job.steps):
        return
    held_out: Iterable[Batch] = validation_batches(job.data, recipe=job.recipe)
    loss = validation_loss(job.model, held_out)
    metrics.write({"step": step, "validation_loss": loss})
    progress.note(f"step {step}: validation loss {loss:.4f}")


def _save(job: Job, step: int) -> Path:
    train = job.recipe.train
    assert train is not None
    path = save_checkpoint(
        job.folder,
        TrainingState(
            step=step,
            consumed_samples=step * train.global_batch,
            run_id=job.run_id,
            has_optimizer=train.save.optimizer,
        ),
        job.model.named_arrays(),
        job.optimizer.state() if train.save.optimizer else None,
        spec=job.recipe.spec,
        side_files=Path(job.recipe.weights.source),
        source_revision=job.source_revision,
    )
    prune(job.folder, train.save.keep)
    return path
