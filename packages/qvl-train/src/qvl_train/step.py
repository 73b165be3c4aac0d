"""One optimizer step on all ranks: losses and gradients, their sums, clipping, update. Stops at a NaN or infinity.

What ranks have to know of each other goes into one exchange a step (two where there are replicas, which first add up
what shares the loss): so all know the same loss and norm, fail together, and stop together when one was asked to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from qvl_core.batch import IGNORE, Batch
from qvl_core.errors import RunError
from qvl_core.lora_table import Lora, weight_table
from qvl_core.parallel.mesh import Coordinate, coordinate_of
from qvl_core.parallel.pipeline import Pipeline
from qvl_core.parallel.step_clock import SilentClock
from qvl_core.parallel.world import Json, World
from qvl_core.specs.model_spec import ModelSpec

from qvl_train.gradients import CopySums, clip_scale, is_counted, norm_of, sum_of_squares
from qvl_train.meter import Measures, Meter
from qvl_train.non_finite import describe, trace_gradients, trace_loss
from qvl_train.optimizer import Optimizer
from qvl_train.reduction import Reduction, count_units, loss_weights


class NotFiniteError(RunError):
    """A NaN or infinity, raised on all ranks after the same exchange, whose `messages` it hands on."""

    def __init__(self, text: str, messages: Sequence[Json]) -> None:
        self.messages = tuple(messages)
        super().__init__(text)


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step did, the same on all ranks.

    `tokens` counts all tokens, `loss_tokens` those with a label. `signal_name` is the signal that asked any rank to
    stop. `messages` are what the callers on all ranks had to tell each other, in rank order. `measures` is None without
    a meter.
    """

    loss: float
    gradient_norm: float
    tokens: int
    loss_tokens: int
    samples: int
    measures: Measures | None
    signal_name: str | None
    messages: tuple[Json, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Report:
    """What a rank tells the others of its part of a step. Counts are those of its replica."""

    loss: float
    squares: float
    tokens: int
    loss_tokens: int
    samples: int
    measured: Mapping[str, Json] | None
    signal_name: str | None
    message: Json


class TrainStep:
    """Compute gradients over one global batch and apply them. All ranks call it with their replica's micro batches.

    The host waits for the device once for each micro batch (its loss, on the last stage) and once for the norm.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        optimizer: Optimizer,
        world: World,
        spec: ModelSpec,
        *,
        clip_norm: float,
        reduction: Reduction,
        meter: Meter | None = None,
        lora: Lora | None = None,
        asked_to_stop: Callable[[], str | None] = lambda: None,
        message: Callable[[], Json] = lambda: None,
    ) -> None:
        self._pipeline = pipeline
        self._optimizer = optimizer
        self._world = world
        self._clip_norm = clip_norm
        self._reduction: Reduction = reduction
        self._asked_to_stop = asked_to_stop
        self._meter = meter
        self._clock = meter.clock if meter is not None else SilentClock()
        pipeline.clock = self._clock
        self._message = message
        table = {row.name: row for row in weight_table(spec, lora, world.layout)}
        rows = [table[name] for name in optimizer.names]
        self._copy_sums = CopySums(world, rows)
        self._counted = [i for i, row in enumerate(rows) if is_counted(row, world) and optimizer.counts(i)]

    def __call__(self, micro_batches: Sequence[Batch], *, lr: float, step: int) -> StepResult:
        """Run update number `step` (from 1). RunError on all ranks, and nothing applied, on a non-finite number."""
        self._clock.switch("communication")
        total = self._total_units(micro_batches)
        self._pipeline.step = step
        loss, gradients = self._pipeline.gradients(micro_batches, loss_weights(micro_batches, self._reduction, total))
        self._clock.switch("communication")
        gradients = self._copy_sums(self._optimizer.over_replicas(gradients))
        self._clock.switch("optimizer")
        squares = sum_of_squares([gradients[i] for i in self._counted])
        reports = self._exchange(micro_batches, loss, squares)
        norm = norm_of([report.squares for report in reports])
        value = sum(report.loss for report, place in self._placed(reports) if place.tp == 0)
        self._require_finite(value, norm, reports, micro_batches, step)
        self._clock.switch("optimizer")
        self._optimizer.update(gradients, lr=lr, step=step, scale=clip_scale(norm, self._clip_norm))
        self._clock.switch("other")
        replicas = [report for report, place in self._placed(reports) if place.tp == 0 and place.pp == 0]
        tokens = sum(report.tokens for report in replicas)
        samples = sum(report.samples for report in replicas)
        return StepResult(
            loss=value,
            gradient_norm=norm,
            tokens=tokens,
            loss_tokens=sum(report.loss_tokens for report in replicas),
            samples=samples,
            measures=self._measures(reports, tokens, samples),
            signal_name=next((report.signal_name for report in reports if report.signal_name), None),
            messages=tuple(report.message for report in reports),
        )

    def _total_units(self, micro_batches: Sequence[Batch]) -> int:
        own = count_units(micro_batches, self._reduction)
        if self._world.layout.dp == 1:
            return own
        counts = self._world.exchange(own)
        return sum(cast(int, count) for count, place in self._placed(counts) if place.tp == 0 and place.pp == 0)

    def _exchange(self, micro_batches: Sequence[Batch], loss: float, squares: float) -> list[_Report]:
        measured = self._meter.take(micro_batches) if self._meter is not None else None
        self._clock.switch("communication")
        report = _Report(
            loss=loss,
            squares=squares,
            tokens=sum(batch.tokens for batch in micro_batches),
            loss_tokens=sum(int((batch.labels != IGNORE).sum()) for batch in micro_batches),
            samples=sum(len(batch.sample_ids) for batch in micro_batches),
            measured=measured,
            signal_name=self._asked_to_stop(),
            message=self._message(),
        )
        return [_Report(**cast("dict[str, Any]", found)) for found in self._world.exchange(asdict(report))]

    def _measures(self, reports: Sequence[_Report], tokens: int, samples: int) -> Measures | None:
        if self._meter is None:
            return None
        told = [cast("Mapping[str, Json]", report.measured) for report in reports]
        return self._meter.summary(told, tokens=tokens, samples=samples)

    def _require_finite(
        self, loss: float, norm: float, reports: Sequence[_Report], micro_batches: Sequence[Batch], step: int
    ) -> None:
        """Raise the same NotFiniteError on all ranks, naming where it began, unless both are finite."""
        is_bad_loss = not math.isfinite(loss) or not all(math.isfinite(report.loss) for report in reports)
        if not is_bad_loss and math.isfinite(norm):
            return
        if is_bad_loss:
            what, value, origins = "loss", loss, trace_loss(self._pipeline, self._world, micro_batches)
        else:
            weights = loss_weights(micro_batches, self._reduction, self._total_units(micro_batches))
            what, value = "gradient norm", norm
            origins = trace_gradients(self._pipeline, self._world, micro_batches, weights)
        is_first = self._world.place.pp == 0 and self._world.place.tp == 0
        names = [name for batch in micro_batches for name in batch.sample_ids] if is_first else []
        text = describe(what, value, step, origins, self._world, self._all_names(names))
        raise NotFiniteError(text, [report.message for report in reports])

    def _all_names(self, mine: list[str]) -> list[str]:
        return [str(name) for names in self._world.exchange(mine) for name in cast("list[Json]", names)]

    def _placed(self, values: Sequence[Any]) -> list[tuple[Any, Coordinate]]:
        """Pair every rank's value with the rank's place."""
        return [(value, coordinate_of(rank, self._world.layout)) for rank, value in enumerate(values)]
