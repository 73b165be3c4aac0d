"""One optimizer step on all ranks: losses and gradients, their sums, clipping, update. Stops at a NaN or infinity.

What ranks have to know of each other goes into one exchange a step (two where there are replicas, which first add up
what shares the loss): so all know the same loss and norm, fail together, and stop together when one was asked to.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
from qvl_core.batch import IGNORE, Batch
from qvl_core.errors import RunError
from qvl_core.lora_table import Lora, weight_table
from qvl_core.parallel.mesh import Coordinate, coordinate_of
from qvl_core.parallel.pipeline import Pipeline
from qvl_core.parallel.world import Json, World
from qvl_core.specs.model_spec import ModelSpec

from qvl_train.gradients import CopySums, clip_scale, is_counted, norm_of, sum_of_squares
from qvl_train.optimizer import Optimizer
from qvl_train.reduction import Reduction, count_units, loss_weights

SHOWN_SAMPLES = 32


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step did, the same on all ranks but for its own times in seconds.

    `tokens` counts all tokens, `loss_tokens` those with a label. `signal_name` is the signal that asked any rank to
    stop. The split of the time since the last step's exchange is the mean over the ranks.
    """

    loss: float
    gradient_norm: float
    tokens: int
    loss_tokens: int
    samples: int
    gradient_s: float
    optimizer_s: float
    compute_s: float
    communication_s: float
    waiting_s: float
    signal_name: str | None


@dataclass(frozen=True, kw_only=True)
class _Report:
    """What a rank tells the others of its part of a step. Counts are those of its replica."""

    loss: float
    squares: float
    tokens: int
    loss_tokens: int
    samples: int
    compute_s: float
    communication_s: float
    waiting_s: float
    signal_name: str | None


class TrainStep:
    """Compute gradients over one global batch and apply them. All ranks call it with their replica's micro batches."""

    def __init__(
        self,
        pipeline: Pipeline,
        optimizer: Optimizer,
        world: World,
        spec: ModelSpec,
        *,
        clip_norm: float,
        reduction: Reduction,
        lora: Lora | None = None,
        asked_to_stop: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._pipeline = pipeline
        self._optimizer = optimizer
        self._world = world
        self._clip_norm = clip_norm
        self._reduction: Reduction = reduction
        self._asked_to_stop = asked_to_stop
        table = {row.name: row for row in weight_table(spec, lora, world.layout)}
        rows = [table[name] for name in optimizer.names]
        self._copy_sums = CopySums(world, rows)
        self._counted = [i for i, row in enumerate(rows) if is_counted(row, world) and optimizer.counts(i)]
        self._split = _TimeSplit(world)

    def __call__(self, micro_batches: Sequence[Batch], *, lr: float, step: int) -> StepResult:
        """Run update number `step` (from 1). RunError on all ranks, and nothing applied, on a non-finite number."""
        started = time.perf_counter()
        total = self._total_units(micro_batches)
        self._pipeline.step = step
        loss, gradients = self._pipeline.gradients(micro_batches, loss_weights(micro_batches, self._reduction, total))
        gradients = self._copy_sums(self._optimizer.over_replicas(gradients))
        squares = sum_of_squares([gradients[i] for i in self._counted])
        reports = self._exchange(micro_batches, loss, squares)
        norm = norm_of([report.squares for report in reports])
        value = sum(report.loss for report, place in self._placed(reports) if place.tp == 0)
        self._require_finite(value, norm, reports, micro_batches, step)
        computed = time.perf_counter()
        scale = clip_scale(norm, self._clip_norm)
        if scale != 1.0:
            gradients = [gradient * scale for gradient in gradients]
        self._optimizer.update(gradients, lr=lr, step=step)
        replicas = [report for report, place in self._placed(reports) if place.tp == 0 and place.pp == 0]
        return StepResult(
            loss=value,
            gradient_norm=norm,
            tokens=sum(report.tokens for report in replicas),
            loss_tokens=sum(report.loss_tokens for report in replicas),
            samples=sum(report.samples for report in replicas),
            gradient_s=computed - started,
            optimizer_s=time.perf_counter() - computed,
            compute_s=_mean(report.compute_s for report in reports),
            communication_s=_mean(report.communication_s for report in reports),
            waiting_s=_mean(report.waiting_s for report in reports),
            signal_name=next((report.signal_name for report in reports if report.signal_name), None),
        )

    def _total_units(self, micro_batches: Sequence[Batch]) -> int:
        own = count_units(micro_batches, self._reduction)
        if self._world.layout.dp == 1:
            return own
        counts = self._world.exchange(own)
        return sum(cast(int, count) for count, place in self._placed(counts) if place.tp == 0 and place.pp == 0)

    def _exchange(self, micro_batches: Sequence[Batch], loss: float, squares: float) -> list[_Report]:
        compute_s, communication_s, waiting_s = self._split.take()
        report = _Report(
            loss=loss,
            squares=squares,
            tokens=sum(batch.tokens for batch in micro_batches),
            loss_tokens=sum(int((batch.labels != IGNORE).sum()) for batch in micro_batches),
            samples=sum(len(batch.sample_ids) for batch in micro_batches),
            compute_s=compute_s,
            communication_s=communication_s,
            waiting_s=waiting_s,
            signal_name=self._asked_to_stop(),
        )
        return [_Report(**cast("dict[str, Any]", found)) for found in self._world.exchange(asdict(report))]

    def _require_finite(
        self, loss: float, norm: float, reports: Sequence[_Report], micro_batches: Sequence[Batch], step: int
    ) -> None:
        """Raise the same RunError on all ranks, naming samples of the replicas concerned, unless both are finite."""
        bad = {place.dp for report, place in self._placed(reports) if not math.isfinite(report.loss)}
        if bad or not math.isfinite(loss):
            mine = self._names_of_bad_loss(micro_batches) if self._world.place.dp in bad else []
            raise RunError(_not_finite("loss", loss, step, self._all_names(mine)))
        if not math.isfinite(norm):
            # A sum over all samples of all replicas: whose it was cannot be told any more.
            is_first = self._world.place.pp == 0 and self._world.place.tp == 0
            names = [name for batch in micro_batches for name in batch.sample_ids] if is_first else []
            raise RunError(_not_finite("gradient norm", norm, step, self._all_names(names)))

    def _names_of_bad_loss(self, micro_batches: Sequence[Batch]) -> list[str]:
        """Run this replica's micro batches forward once more, to name only those whose loss is not finite."""
        names: list[str] = []
        for batch in micro_batches:
            losses = self._pipeline.losses(batch)
            if losses is not None and self._world.place.tp == 0 and not np.isfinite(losses).all():
                names += batch.sample_ids
        return names

    def _all_names(self, mine: list[str]) -> list[str]:
        return [str(name) for names in self._world.exchange(mine) for name in cast("list[Json]", names)]

    def _placed(self, values: Sequence[Any]) -> list[tuple[Any, Coordinate]]:
        """Pair every rank's value with the rank's place."""
        return [(value, coordinate_of(rank, self._world.layout)) for rank, value in enumerate(values)]


class _TimeSplit:
    """How the time since the last call went on this rank: computing, communicating, waiting for others."""

    def __init__(self, world: World) -> None:
        self._times = world.times
        self._last = (time.perf_counter(), world.times.communication_s, world.times.waiting_s)

    def take(self) -> tuple[float, float, float]:
        """Give seconds of each since the last call."""
        now = (time.perf_counter(), self._times.communication_s, self._times.waiting_s)
        passed, communication_s, waiting_s = (new - old for new, old in zip(now, self._last, strict=True))
        self._last = now
        return passed - communication_s - waiting_s, communication_s, waiting_s


def validation_loss(pipeline: Pipeline, world: World, batches: Iterable[Batch]) -> float:
    """Give the mean loss of all labelled tokens of all replicas' batches, on every rank; no gradient, no update."""
    total, count = 0.0, 0
    for batch in batches:
        losses = pipeline.losses(batch)
        if losses is not None and world.place.tp == 0:
            total += float(losses.astype(np.float64).sum())
            count += int((batch.labels != IGNORE).sum())
    sums = [cast("list[float]", found) for found in world.exchange([total, count])]
    return sum(part[0] for part in sums) / max(1, sum(part[1] for part in sums))


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def _not_finite(what: str, value: float, step: int, names: Sequence[str]) -> str:
    more = len(names) - SHOWN_SAMPLES
    shown = "\n  ".join(names[:SHOWN_SAMPLES]) + (f"\n  and {more} more" if more > 0 else "")
    return (
        f"the {what} of step {step} is {value}; the step was not applied and nothing was saved after it.\n"
        f"samples of this step:\n  {shown}\n"
        "fix: look at these samples; or lower train.optimizer.lr or train.optimizer.clip_norm (0 is off), "
        "and run the same command again: it goes on from the last checkpoint"
    )
