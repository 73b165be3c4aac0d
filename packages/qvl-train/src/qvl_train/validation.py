"""The loss on held-out samples: every sample once, whatever the layout; no gradient, no update."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from qvl_core.batch import IGNORE, Batch
from qvl_data import count_validation_batches, validation_batches

if TYPE_CHECKING:
    from qvl_core.parallel.pipeline import Pipeline
    from qvl_core.parallel.world import World

    from qvl_train.loop import Job
    from qvl_train.reports import Reports


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """The mean loss of all labelled tokens, and how many there are; the same on every rank."""

    loss: float
    loss_tokens: int


def is_due(job: Job, step: int) -> bool:
    """Tell whether the model is to be looked at after `step` updates."""
    train = job.recipe.train
    assert train is not None
    if job.data.validation is None:
        return False
    if step == 0:
        return train.log.validate_first
    return step % train.log.validate_every == 0 or step == job.steps


def validate(job: Job, step: int, reports: Reports) -> None:
    """Measure the loss of the validation samples after `step` updates, and tell it."""
    started = time.perf_counter()
    place, replicas = job.world.place, job.world.layout.dp
    total = count_validation_batches(job.data, recipe=job.recipe, dp_size=replicas)
    job.world.phase = f"validation after step {step}"

    def show(done: int) -> None:
        # Also for the watchdog: a long validation moves.
        job.world.phase = f"validation after step {step}: {done} of {total}"
        reports.validating(done, total)

    held_out = validation_batches(job.data, recipe=job.recipe, dp_rank=place.dp, dp_size=replicas)
    result = validation_loss(job.pipeline, job.world, held_out, show)
    seconds = time.perf_counter() - started
    reports.write(
        {
            "step": step,
            "validation_loss": result.loss,
            "validation_loss_tokens": result.loss_tokens,
            "validation_s": round(seconds, 6),
        }
    )
    reports.note(
        f"step {step}: validation loss {result.loss:.4f} over {result.loss_tokens:,} labelled tokens, {seconds:.1f} s"
    )


def validation_loss(
    pipeline: Pipeline, world: World, batches: Iterable[Batch], show: Callable[[int], None] = lambda done: None
) -> ValidationResult:
    """Give the mean over all replicas' batches; `show` is told how many of this replica's are done."""
    total, count = 0.0, 0
    for number, batch in enumerate(batches, 1):
        losses = pipeline.losses(batch)
        if losses is not None and world.place.tp == 0:
            total += float(losses.astype(np.float64).sum())
            count += int((batch.labels != IGNORE).sum())
        show(number)
    sums = [cast("list[float]", found) for found in world.exchange([total, count])]
    tokens = int(sum(part[1] for part in sums))
    return ValidationResult(loss=sum(part[0] for part in sums) / max(1, tokens), loss_tokens=tokens)
