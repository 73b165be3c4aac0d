"""Seconds of a step: compute and communication of every stage for a mean micro batch, the pipeline, the replicas.

Multiplications are counted by `qvl_core.multiplications`, as everywhere in qvl. A part takes the longer of its
multiplications at a share of the peak and of reading its weights, and what starting its operations takes. Nothing is
overlapped: our engine computes, then communicates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from qvl_core import multiplications as work
from qvl_core.params import Component
from qvl_core.planner.adapters import NO_ADAPTERS, adapted_layers
from qvl_core.planner.held import Held
from qvl_core.planner.job import Job
from qvl_core.planner.stage_shape import StageShape
from qvl_core.stage_table import DTYPE_BYTES

if TYPE_CHECKING:
    from qvl_core.planner.devices import DeviceFacts

# See `assumptions`, where each has its source and its band.
MATMUL_SHARE = 0.5
OPERATIONS_OF_A_LAYER = 75
SECONDS_OF_AN_OPERATION = 26e-6
# Of patch embedding or head.
OPERATIONS_OF_A_PART = 9
# fp32 gradient, both moments and the master weights are read, all but the gradient written, and the weight in bf16.
_UPDATE_BYTES = 30
# A gradient is read and its fp32 sum read and written.
_ACCUMULATE_BYTES = 10
TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """What a piece of work takes: computing, starting its operations on the host, and communication."""

    compute: float = 0.0
    starting: float = 0.0
    communication: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(
            compute=self.compute + other.compute,
            starting=self.starting + other.starting,
            communication=self.communication + other.communication,
        )

    def __mul__(self, factor: float) -> Seconds:
        """Give so many times as much."""
        return Seconds(
            compute=self.compute * factor,
            starting=self.starting * factor,
            communication=self.communication * factor,
        )

    @property
    def total(self) -> float:
        """Give the sum: nothing is overlapped."""
        return self.compute + self.starting + self.communication


# A stage is added up of Seconds, or where their sum is enough, of numbers: the search looks at thousands.
_Time = TypeVar("_Time", Seconds, float)


@dataclass(frozen=True, kw_only=True)
class _Part(Generic[_Time]):
    """A part's forward, what of it runs again for the tape, and its backward."""

    ahead: _Time
    again: _Time
    back: _Time
    works_back: bool


@dataclass(frozen=True, kw_only=True)
class _Table(Generic[_Time]):
    """What a stage is added up of."""

    nothing: _Time
    patch_embed: _Part[_Time]
    vision: _Part[_Time]
    merger: _Part[_Time]
    text: _Part[_Time]
    head: _Part[_Time]
    lookup: _Time
    hand_over: _Time
    accumulate: _Time

    def of_stage(self, shape: StageShape, trained: int, *, is_first: bool, is_last: bool) -> tuple[_Time, _Time]:
        """Give forward and backward of a stage of a training; without a tape `again` is nothing."""
        forward = again = backward = self.nothing
        works_back = trained > 0
        for count, part in (
            (shape.patch_embed and shape.vision > 0, self.patch_embed),
            (shape.vision, self.vision),
            (shape.merger and shape.vision > 0, self.merger),
            (shape.text, self.text),
            (shape.head, self.head),
        ):
            if not count:
                continue
            forward = forward + part.ahead * count
            backward = backward + part.back * count
            again = again + part.again * count
            works_back = works_back or part.works_back
        if shape.embeds:
            forward = forward + self.lookup
        if works_back and not is_last:
            backward = backward + again
        backward = backward + self.accumulate * trained
        if not is_first:
            forward = forward + self.hand_over
        if not is_last and works_back:
            backward = backward + self.hand_over
        return forward, backward


@dataclass(frozen=True, kw_only=True)
class _Cost:
    """A part: multiplications with weights and without, the weights' bytes, and sums over the tensor group."""

    component: Component
    linear: float
    attention: float
    weights: float
    sums: int
    sum_bytes: float
    rows: float
    is_layer: bool = True


class PartTimes:
    """Seconds of the parts of a job's model for one tp and micro batch, to be put into stages."""

    def __init__(self, job: Job, *, tp: int, dp: int, samples: int, recompute: frozenset[Component]) -> None:
        self._job, self._tp, self._dp, self._recompute = job, tp, dp, recompute
        self._element = DTYPE_BYTES[job.dtype]
        self._kept_features = not job.is_reached("merger")
        self._adapted = adapted_layers(job.spec, job.lora)
        load, spec = job.workload, job.spec
        vision, text = spec.vision, spec.text
        self._tokens = samples * load.tokens
        patches = samples * load.media_tokens * vision.merge_unit
        frame = max(1, round(load.media_tokens * vision.merge_unit / load.frames))
        pairs = sum(work.vision_attention(vision, layer, frame) for layer in range(vision.depth)) / vision.depth
        length = max(1, round(load.tokens / load.sequences))
        text_sum = self._tokens * text.hidden_size * self._element
        vision_sum = patches * vision.hidden_size * self._element
        units = patches / vision.merge_unit
        self._text = self._of(
            _Cost(
                component="text",
                linear=self._tokens * work.text_layer(text),
                attention=samples * load.sequences * work.text_attention(text, length),
                weights=work.text_layer(text),
                sums=2,
                sum_bytes=text_sum,
                rows=self._tokens,
            )
        )
        self._vision = self._of(
            _Cost(
                component="vision",
                linear=patches * work.vision_layer(vision),
                attention=samples * load.frames * pairs,
                weights=work.vision_layer(vision),
                sums=2,
                sum_bytes=vision_sum,
                rows=patches,
            )
        )
        self._merger = self._of(
            _Cost(
                component="merger",
                linear=units * work.merger(vision),
                attention=0.0,
                weights=work.merger(vision),
                sums=1,
                sum_bytes=units * text.hidden_size * self._element,
                rows=units,
            )
        )
        self._patch = self._of(
            _Cost(
                component="vision",
                linear=patches * work.patch_embedding(vision),
                attention=0.0,
                weights=work.patch_embedding(vision),
                sums=0,
                sum_bytes=0.0,
                rows=patches,
                is_layer=False,
            )
        )
        labels = samples * load.labels
        self._head = self._of(
            _Cost(
                component="text",
                linear=labels * work.output_head(text),
                attention=0.0,
                weights=work.output_head(text),
                sums=1,
                sum_bytes=labels * text.hidden_size * self._element,
                rows=labels,
                is_layer=False,
            )
        )
        self._table = self._make_table(self._all_reduce(text_sum))
        self._totals = _totals(self._table)

    def of_stage(self, shape: StageShape, held: Held, *, is_first: bool, is_last: bool) -> tuple[Seconds, Seconds]:
        """Give forward and backward of a stage for one micro batch, with what it exchanges with its neighbours."""
        return self._table.of_stage(shape, held.trained, is_first=is_first, is_last=is_last)

    def seconds(self, shape: StageShape, held: Held, *, is_first: bool, is_last: bool) -> float:
        """Give the sum of both."""
        forward, backward = self._totals.of_stage(shape, held.trained, is_first=is_first, is_last=is_last)
        return forward + backward

    def _make_table(self, lookup: float) -> _Table[Seconds]:
        job = self._job
        accumulate = _ACCUMULATE_BYTES / (job.device.memory_gb_per_s * GIGA) if job.task == "train" else 0.0
        return _Table(
            nothing=Seconds(),
            patch_embed=self._part(self._patch),
            vision=self._part(self._vision),
            merger=self._part(self._merger),
            text=self._part(self._text),
            head=self._part(self._head),
            lookup=Seconds(communication=lookup),
            hand_over=Seconds(communication=self.hand_over),
            accumulate=Seconds(compute=accumulate),
        )

    def _part(self, times: tuple[Component, Seconds, Seconds]) -> _Part[Seconds]:
        component, ahead, back = times
        runs_again = self._job.engine.tape and (component == "text" or not self._kept_features)
        again = ahead if runs_again else Seconds()
        return _Part(ahead=ahead, again=again, back=back, works_back=back.total > 0)

    @property
    def text_layer(self) -> tuple[Seconds, Seconds]:
        """Give forward and backward of one text layer, nothing run again for the tape."""
        return self._text[1], self._text[2]

    @property
    def hand_over(self) -> float:
        """Give the time of handing the tokens of a micro batch to the next stage."""
        return self._handed(self._tokens * self._job.spec.text.hidden_size * self._element)

    def _handed(self, size: float) -> float:
        device = self._job.device
        rate, latency = _link(device, is_near(self._job, self._tp, self._dp))
        return latency + size / rate

    def answers(self, shape: StageShape, cache_bytes: float) -> Seconds:
        """Give what a stage takes for the answers to a batch: each token reads the text's weights and the cache."""
        job, text, device = self._job, self._job.spec.text, self._job.device
        weights = (shape.text * work.text_layer(text) + shape.head * work.output_head(text)) / self._tp
        reading = (weights * self._element + cache_bytes) / (device.memory_gb_per_s * GIGA)
        arithmetic = 2 * job.batch * weights / (device.peak_tflops * TERA * MATMUL_SHARE)
        row = job.batch * text.hidden_size * self._element
        sums = shape.text * 2 * self._all_reduce(row) + (not shape.head) * self._handed(row)
        starting = shape.text * OPERATIONS_OF_A_LAYER * SECONDS_OF_AN_OPERATION
        step = Seconds(compute=max(reading, arithmetic), starting=starting, communication=sums)
        return step * job.new_tokens

    def _of(self, cost: _Cost) -> tuple[Component, Seconds, Seconds]:
        """Give a part's forward and backward."""
        job = self._job
        if job.keeps_features and cost.component != "text":
            return cost.component, Seconds(), Seconds()
        forward = self._forward(cost)
        trains = cost.component not in job.frozen
        backward = Seconds()
        if job.task == "train" and job.is_reached(cost.component):
            backward = self._forward(cost, linear=1.0 + trains, again=2.0)
            if cost.is_layer and cost.component in self._recompute:
                backward = backward + forward
        return cost.component, forward, backward

    def _forward(self, cost: _Cost, *, linear: float = 1.0, again: float = 1.0) -> Seconds:
        """Give a pass in which products with weights count `linear` times, attention and adapters `again` times."""
        device = self._job.device
        adapted = self._adapted.get(cost.component, NO_ADAPTERS) if cost.is_layer else NO_ADAPTERS
        multiplications = cost.linear * linear + (cost.attention + cost.rows * adapted.multiplications) * again
        arithmetic = 2 * multiplications / self._tp / (device.peak_tflops * TERA * MATMUL_SHARE)
        reading = linear * cost.weights / self._tp * self._element / (device.memory_gb_per_s * GIGA)
        operations = linear * (OPERATIONS_OF_A_LAYER if cost.is_layer else OPERATIONS_OF_A_PART)
        return Seconds(
            compute=max(arithmetic, reading),
            starting=SECONDS_OF_AN_OPERATION * (operations + again * adapted.operations),
            communication=cost.sums * self._all_reduce(cost.sum_bytes),
        )

    def _all_reduce(self, size: float) -> float:
        near = self._tp <= self._job.device.devices_per_node
        return all_reduce(size, self._tp, self._job.device, near=near)


def _totals(table: _Table[Seconds]) -> _Table[float]:
    """Give the same with all that a part takes added up."""

    def part(of: _Part[Seconds]) -> _Part[float]:
        return _Part(ahead=of.ahead.total, again=of.again.total, back=of.back.total, works_back=of.works_back)

    return _Table(
        nothing=0.0,
        patch_embed=part(table.patch_embed),
        vision=part(table.vision),
        merger=part(table.merger),
        text=part(table.text),
        head=part(table.head),
        lookup=table.lookup.total,
        hand_over=table.hand_over.total,
        accumulate=table.accumulate.total,
    )


def is_near(job: Job, tp: int, dp: int) -> bool:
    """Tell whether the next stage's rank is on the same machine."""
    return tp * dp < job.device.devices_per_node


def all_reduce(size: float, ranks: int, device: DeviceFacts, *, near: bool) -> float:
    """Give the seconds of a ring all-reduce of so many bytes on each rank; 0 for one rank."""
    return 2 * gather(size, ranks, device, near=near)


def gather(size: float, ranks: int, device: DeviceFacts, *, near: bool) -> float:
    """Give the seconds of a ring all-gather, or reduce-scatter, whose whole result has so many bytes."""
    if ranks == 1 or size <= 0:
        return 0.0
    rate, latency = _link(device, near)
    return (ranks - 1) / ranks * size / rate + (ranks - 1) * latency


def replica_seconds(job: Job, held: Held, *, tp: int, dp: int, zero1: bool) -> float:
    """Give what summing gradients over the replicas, and handing the new weights back, takes a stage."""
    element = 4 if job.lora is not None else DTYPE_BYTES[job.dtype]
    near = tp * dp <= job.device.devices_per_node
    if zero1:
        return gather(held.trained * 4, dp, job.device, near=near) + gather(
            held.trained * element, dp, job.device, near=near
        )
    return all_reduce(held.trained * 4, dp, job.device, near=near)


def update_seconds(job: Job, held: Held, *, zero1: bool) -> float:
    """Give what the optimizer takes a stage: it reads and writes memory."""
    own = held.sliced if zero1 else held.trained
    return own * _UPDATE_BYTES / (job.device.memory_gb_per_s * GIGA)


def _link(device: DeviceFacts, near: bool) -> tuple[float, float]:
    """Give bytes a second and seconds of latency."""
    if near:
        return device.near_gb_per_s * GIGA, device.near_latency_us * 1e-6
    return device.far_gb_per_s * GIGA, device.far_latency_us * 1e-6
