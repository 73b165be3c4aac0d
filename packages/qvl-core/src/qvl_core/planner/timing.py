"""Seconds of a step: compute and communication of every stage for a mean micro batch, the pipeline, the replicas.

Multiplications are counted by `qvl_core.multiplications`, as everywhere in qvl. A part takes the longer of its
multiplications at a share of the peak and of reading its weights, and what starting its operations takes. Nothing is
overlapped: our engine computes, then communicates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from qvl_core import multiplications as work
from qvl_core.answer_sizes import rows_in_prefill
from qvl_core.params import Component
from qvl_core.planner.adapters import NO_ADAPTERS, adapted_layers
from qvl_core.planner.collectives import GIGA, Links, all_reduce, gather, handed
from qvl_core.planner.held import Held
from qvl_core.planner.job import Job
from qvl_core.planner.memory import cache_bytes
from qvl_core.planner.seconds import PartSeconds, PartTable, Seconds, totals
from qvl_core.planner.stage_shape import StageShape
from qvl_core.stage_table import DTYPE_BYTES

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
TERA = 1e12


@dataclass(frozen=True, kw_only=True)
class _Cost:
    """A part: rows, multiplications of a row with weights, all without, and sums over the tensor group of so wide rows.

    A weight takes part once a row, so `weights` is their number as well.
    """

    component: Component
    rows: float
    weights: float
    attention: float = 0.0
    sums: int = 0
    width: int = 0
    is_layer: bool = True


class PartTimes:
    """Seconds of the parts of a job's model for one tp and micro batch, to be put into stages."""

    def __init__(self, job: Job, *, tp: int, links: Links, samples: int, recompute: frozenset[Component]) -> None:
        self._job, self._tp, self._links, self._recompute = job, tp, links, recompute
        self._element = DTYPE_BYTES[job.dtype]
        self._kept_features = not job.is_reached("merger")
        self._adapted = adapted_layers(job.spec, job.lora)
        self._passes = 1
        if job.task != "train":
            samples = job.at_once
            # Of so many prompts at a time (qvl_core.generate.scheduler).
            self._passes = ceil(samples / int(rows_in_prefill(samples, ceil(job.workload.tokens))))
        self._tokens = samples * job.workload.tokens
        self._table = self._make_table(self._costs(samples))
        self._totals = totals(self._table)

    def _costs(self, samples: int) -> dict[str, _Cost]:
        """Give the parts of a micro batch by the names that `PartTable` has."""
        load, vision, text = self._job.workload, self._job.spec.vision, self._job.spec.text
        patches = samples * load.media_tokens * vision.merge_unit
        frame = max(1, round(load.media_tokens * vision.merge_unit / load.frames))
        pairs = sum(work.vision_attention(vision, layer, frame) for layer in range(vision.depth)) / vision.depth
        length = max(1, round(load.tokens / load.sequences))
        return {
            "patch_embed": _Cost(
                component="vision", rows=patches, weights=work.patch_embedding(vision), is_layer=False
            ),
            "vision": _Cost(
                component="vision",
                rows=patches,
                weights=work.vision_layer(vision),
                attention=samples * load.frames * pairs,
                sums=2,
                width=vision.hidden_size,
            ),
            "merger": _Cost(
                component="merger",
                rows=patches / vision.merge_unit,
                weights=work.merger(vision),
                sums=1,
                width=text.hidden_size,
            ),
            "text": _Cost(
                component="text",
                rows=self._tokens,
                weights=work.text_layer(text),
                attention=samples * load.sequences * work.text_attention(text, length),
                sums=2,
                width=text.hidden_size,
            ),
            "head": _Cost(
                component="text",
                rows=samples * load.labels,
                weights=work.output_head(text),
                sums=1,
                width=text.hidden_size,
                is_layer=False,
            ),
        }

    def of_stage(self, shape: StageShape, held: Held, *, is_first: bool, is_last: bool) -> tuple[Seconds, Seconds]:
        """Give forward and backward of a stage for one micro batch, with what it exchanges with its neighbours."""
        return self._table.of_stage(shape, held.trained, is_first=is_first, is_last=is_last)

    def seconds(self, shape: StageShape, held: Held, *, is_first: bool, is_last: bool) -> float:
        """Give the sum of both."""
        forward, backward = self._totals.of_stage(shape, held.trained, is_first=is_first, is_last=is_last)
        return forward + backward

    def _make_table(self, costs: Mapping[str, _Cost]) -> PartTable[Seconds]:
        job = self._job
        accumulate = _ACCUMULATE_BYTES / (job.device.memory_gb_per_s * GIGA) if job.task == "train" else 0.0
        return PartTable(
            nothing=Seconds(),
            lookup=Seconds(communication=self._all_reduce(self._tokens, job.spec.text.hidden_size)),
            hand_over=Seconds(communication=self.hand_over),
            accumulate=Seconds(compute=accumulate),
            **{name: self._part(cost) for name, cost in costs.items()},
        )

    @property
    def text_layer(self) -> tuple[Seconds, Seconds]:
        """Give forward and backward of one text layer, nothing run again for the tape."""
        return self._table.text.ahead, self._table.text.back

    @property
    def hand_over(self) -> float:
        """Give the time of handing the tokens of a micro batch to the next stage."""
        return self._handed(self._tokens)

    def _handed(self, rows: float) -> float:
        size = rows * self._job.spec.text.hidden_size * self._element
        return handed(size, self._job.device, near=self._links.stages)

    def answers(self, shape: StageShape) -> Seconds:
        """Give what a stage takes for the answers to a batch: each token reads the text's weights and the cache."""
        job, text, device, rows = self._job, self._job.spec.text, self._job.device, self._job.at_once
        cache = shape.text * cache_bytes(job, rows) / self._tp
        weights = (shape.text * work.text_layer(text) + shape.head * work.output_head(text)) / self._tp
        reading = (weights * self._element + cache) / (device.memory_gb_per_s * GIGA)
        arithmetic = 2 * rows * weights / (device.peak_tflops * TERA * MATMUL_SHARE)
        sums = shape.text * 2 * self._all_reduce(rows, text.hidden_size)
        sums += (not shape.head) * self._handed(rows)
        starting = shape.text * OPERATIONS_OF_A_LAYER * SECONDS_OF_AN_OPERATION
        step = Seconds(compute=max(reading, arithmetic), starting=starting, communication=sums)
        return step * job.new_tokens

    def _part(self, cost: _Cost) -> PartSeconds[Seconds]:
        """Give a part's forward, what runs again of it, and its backward."""
        job = self._job
        if job.keeps_features and cost.component != "text":
            return PartSeconds(ahead=Seconds(), again=Seconds(), back=Seconds(), works_back=False)
        ahead, back = self._forward(cost), Seconds()
        if job.task == "train" and job.is_reached(cost.component):
            trains = cost.component not in job.frozen
            back = self._forward(cost, linear=1.0 + trains, again=2.0)
            if cost.is_layer and cost.component in self._recompute:
                back = back + ahead
        runs_again = job.engine.tape and (cost.component == "text" or not self._kept_features)
        return PartSeconds(ahead=ahead, again=ahead if runs_again else Seconds(), back=back, works_back=back.total > 0)

    def _forward(self, cost: _Cost, *, linear: float = 1.0, again: float = 1.0) -> Seconds:
        """Give a pass in which products with weights count `linear` times, attention and adapters `again` times."""
        device = self._job.device
        adapted = self._adapted.get(cost.component, NO_ADAPTERS) if cost.is_layer else NO_ADAPTERS
        beside = cost.attention + cost.rows * adapted.multiplications
        multiplications = cost.rows * cost.weights * linear + beside * again
        arithmetic = 2 * multiplications / self._tp / (device.peak_tflops * TERA * MATMUL_SHARE)
        reading = self._passes * linear * cost.weights / self._tp * self._element / (device.memory_gb_per_s * GIGA)
        operations = self._passes * linear * (OPERATIONS_OF_A_LAYER if cost.is_layer else OPERATIONS_OF_A_PART)
        return Seconds(
            compute=max(arithmetic, reading),
            starting=SECONDS_OF_AN_OPERATION * (operations + again * adapted.operations),
            communication=cost.sums * self._all_reduce(cost.rows, cost.width),
        )

    def _all_reduce(self, rows: float, width: int) -> float:
        """Give the seconds of a sum of rows over the tensor group."""
        return all_reduce(rows * width * self._element, self._tp, self._job.device, near=self._links.tensor)


def replica_seconds(job: Job, held: Held, *, dp: int, near: bool, zero1: bool) -> float:
    """Give what summing gradients over the replicas, and handing the new weights back, takes a stage."""
    element = 4 if job.lora is not None else DTYPE_BYTES[job.dtype]
    if zero1:
        return gather(held.trained * 4, dp, job.device, near=near) + gather(
            held.trained * element, dp, job.device, near=near
        )
    return all_reduce(held.trained * 4, dp, job.device, near=near)


def update_seconds(job: Job, held: Held, *, zero1: bool) -> float:
    """Give what the optimizer takes a stage: it reads and writes memory."""
    own = held.sliced if zero1 else held.trained
    return own * _UPDATE_BYTES / (job.device.memory_gb_per_s * GIGA)
