"""The loss on held-out samples: every sample once, whatever the layout; no gradient, no update."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from qvl_core.batch import IGNORE, Batch
from qvl_data import count_validation_batches, validation_batches

if TYPE_CHECKING:
    from qvl_core.parallel.pipeline import Pipeline
    from qvl_core.parallel.world import Json, World

    from qvl_train.job import Job
    from qvl_train.reports import Reports

# Micro batches between two looks at whether a signal has come: each is an exchange that all ranks wait for.
ASK_EVERY = 8


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """The mean loss of all labelled tokens, and how many there are; the same on every rank.

    `signal_name` is the signal that asked any rank to stop. It ended the validation early where not all `is_complete`:
    the loss is then that of a part.
    """

    loss: float
    loss_tokens: int
    signal_name: str | None = None
    is_complete: bool = True


def is_due(job: Job, step: int) -> bool:
    """Tell whether the model is to be looked at after `step` updates."""
    train = job.recipe.train
    assert train is not None
    if job.data.validation is None:
        return False
    if step == 0:
        return train.log.validate_first
    return step % train.log.validate_every == 0 or step == job.steps


def validate(job: Job, step: int, reports: Reports, asked_to_stop: Callable[[], str | None]) -> str | None:
    """Measure the loss of the validation samples after `step` updates, and tell it.

    Gives the name of the signal that asked any rank to stop meanwhile, the same on every rank; a validation that it
    ended early tells no loss.
    """
    started = time.perf_counter()
    place, replicas = job.world.place, job.world.layout.dp
    total = count_validation_batches(job.data, recipe=job.recipe, dp_size=replicas)
    job.world.phase = f"validation after step {step}"

    def show(done: int) -> None:
        # Also for the watchdog: a long validation moves.
        job.world.phase = f"validation after step {step}: {done} of {total}"
        reports.validating(done, total)

    held_out = validation_batches(
        job.data, recipe=job.recipe, dp_rank=place.dp, dp_size=replicas, bad_samples=job.bad_samples
    )
    result = validation_loss(job.pipeline, job.world, held_out, show, asked_to_stop)
    if not result.is_complete:
        reports.note(left_out(step, str(result.signal_name)))
        return result.signal_name
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
    return result.signal_name


def left_out(step: int, signal_name: str) -> str:
    """Say that there is no validation loss of a step, and why: saving comes first."""
    return f"step {step}: no validation loss, {signal_name} asked to stop"


def validation_loss(
    pipeline: Pipeline,
    world: World,
    batches: Iterable[Batch],
    show: Callable[[int], None] = lambda done: None,
    asked_to_stop: Callable[[], str | None] = lambda: None,
) -> ValidationResult:
    """Give the mean over all replicas' batches; `show` is told how many of this replica's are done.

    Every rank has equally many batches, and all end early after the same one when `asked_to_stop` names a signal on
    any.
    """
    total, count, is_complete = 0.0, 0, True
    for number, batch in enumerate(batches):
        if number and number % ASK_EVERY == 0 and _first(world.exchange(asked_to_stop())) is not None:
            is_complete = False
            break
        losses = pipeline.losses(batch)
        if losses is not None and world.place.tp == 0:
            total += float(losses.astype(np.float64).sum())
            count += int((batch.labels != IGNORE).sum())
        show(number + 1)
    told = [cast("list[Any]", found) for found in world.exchange([total, count, asked_to_stop()])]
    tokens = int(sum(part[1] for part in told))
    return ValidationResult(
        loss=sum(part[0] for part in told) / max(1, tokens),
        loss_tokens=tokens,
        signal_name=_first([part[2] for part in told]),
        is_complete=is_complete,
    )


def _first(names: Sequence[Json]) -> str | None:
    """Give the first signal's name in rank order."""
    return next((str(name) for name in names if name is not None), None)
