"""One plan: a layout, what it recomputes, its micro batch, and the memory and time of every stage. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from qvl_core.layout import Layout
from qvl_core.model_flops import training_flops
from qvl_core.params import Component
from qvl_core.planner.collectives import Links, links_of
from qvl_core.planner.job import COMPONENTS, Job
from qvl_core.planner.memory import GIB, MemoryParts, PartMemory, stage_memory
from qvl_core.planner.pipeline import clock_seconds
from qvl_core.planner.seconds import Seconds
from qvl_core.planner.stage_shape import stage_shapes
from qvl_core.planner.timing import TERA, PartTimes, replica_seconds, update_seconds


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage: bytes on each of its ranks, and seconds: forward and backward of a micro batch, then of a step."""

    stage: int
    vision: int
    text: int
    memory: MemoryParts
    forward: Seconds
    backward: Seconds
    replicas_s: float
    update_s: float

    @property
    def micro_batch_s(self) -> float:
        """Give the time of one micro batch, forward and backward."""
        return self.forward.total + self.backward.total


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A layout with what it costs. `step_s` is an optimizer step, or one batch of answers where nothing trains."""

    job: Job
    layout: Layout
    recompute: frozenset[Component]
    micro_batch: int
    zero1: bool
    stages: tuple[StagePlan, ...]

    @property
    def micro_batches(self) -> int:
        """Count the micro batches of a step on a replica."""
        if self.job.task != "train":
            return 1
        return max(1, self.job.global_batch // (self.micro_batch * self.layout.dp))

    @property
    def at_once(self) -> int:
        """Count the samples of a micro batch, or the answers that a replica gives at a time."""
        return self.micro_batch if self.job.task == "train" else self.job.at_once

    @property
    def samples_per_step(self) -> int:
        """Count the samples, or answers, of all replicas in what `step_s` is the time of."""
        return self.job.global_batch if self.job.task == "train" else self.at_once * self.layout.dp

    @property
    def machines(self) -> tuple[int, int]:
        """Give the machines, and the devices on each."""
        world = self.layout.world_size
        each = min(world, self.job.device.devices_per_node)
        return -(-world // each), each

    @property
    def has_far_tensors(self) -> bool:
        """Tell whether tensor groups lie over several machines."""
        return not _links(self.job, self.layout).tensor

    @property
    def memory(self) -> float:
        """Give the bytes of the fullest rank."""
        return max(stage.memory.total for stage in self.stages)

    @property
    def fullest(self) -> int:
        """Give the stage whose ranks are fullest."""
        return max(range(len(self.stages)), key=lambda stage: self.stages[stage].memory.total)

    @property
    def slowest(self) -> int:
        """Give the stage that takes longest."""
        return max(range(len(self.stages)), key=lambda stage: self.stages[stage].micro_batch_s)

    @property
    def fill_s(self) -> float:
        """Give the time that one micro batch takes through all stages."""
        return sum(stage.micro_batch_s for stage in self.stages)

    @property
    def step_s(self) -> float:
        """Give the time of a step.

        One micro batch passes all stages, the others follow as fast as the slowest stage lets them; then each stage
        sums its gradients over the replicas and updates. With equal stages that is (m + p - 1) micro batches.
        """
        more = self.micro_batches - 1
        return self.fill_s + max(
            more * stage.micro_batch_s + stage.replicas_s + stage.update_s for stage in self.stages
        )

    @cached_property
    def clock_s(self) -> float:
        """Give the time of a step by the clock of 1F1B; lopsided stages take more, or less, than `step_s`."""
        if self.job.task != "train" or self.layout.pp == 1:
            return self.step_s
        return clock_seconds(
            [stage.forward.total for stage in self.stages],
            [stage.backward.total for stage in self.stages],
            self.micro_batches,
            [stage.replicas_s + stage.update_s for stage in self.stages],
        )

    @property
    def bubble(self) -> float:
        """Give the part of the stages' time in the pipeline in which they wait for each other."""
        pipeline = self.fill_s + (self.micro_batches - 1) * self.stages[self.slowest].micro_batch_s
        return max(0.0, 1.0 - self.micro_batches * self.fill_s / (self.layout.pp * pipeline))

    @property
    def samples_per_s(self) -> float:
        """Give the samples, or answers, of all replicas in a second."""
        return self.samples_per_step / self.step_s

    @property
    def mfu(self) -> float:
        """Give the share of the devices' peak that the model's own work makes use of."""
        job, load = self.job, self.job.workload
        if job.task != "train":
            return 0.0
        side, pieces = job.spec.vision.spatial_merge_size, max(1, round(load.sequences))
        frames = max(1, round(load.frames))
        units = max(1, round(load.media_tokens / frames))
        flops = training_flops(
            job.spec,
            sequences=(max(1, round(load.tokens / pieces)),) * pieces,
            grids=((1, side, side * units),) * frames if load.media_tokens >= 1 and not job.keeps_features else (),
            labels=round(load.labels),
            freeze=job.frozen,
            adapted=job.alive,
        )
        return flops.total * self.samples_per_s / (self.layout.world_size * job.device.peak_tflops * TERA)

    @property
    def shares(self) -> dict[str, float]:
        """Give what a step's time on the slowest stage goes to; adds up to 1."""
        slow, m = self.stages[self.slowest], self.micro_batches
        parts = {
            "compute": m * (slow.forward.compute + slow.backward.compute),
            "starting operations": m * (slow.forward.starting + slow.backward.starting),
            "communication in the stage and with its neighbours": m
            * (slow.forward.communication + slow.backward.communication),
            "gradients and weights over the replicas": slow.replicas_s,
            "optimizer": slow.update_s,
        }
        parts["pipeline bubble"] = max(0.0, self.step_s - sum(parts.values()))
        total = sum(parts.values())
        return {name: seconds / total for name, seconds in parts.items()}

    @property
    def bottleneck(self) -> str:
        """Name what costs most beside computing, or computing itself where all else is small."""
        rest = {name: share for name, share in self.shares.items() if name != "compute"}
        name = max(rest, key=rest.__getitem__)
        return name if rest[name] >= 0.1 else "compute"

    def recompute_value(self) -> str | list[str]:
        """Give the recipe's value of `layout.recompute`."""
        if not self.recompute:
            return "none"
        if self.recompute == frozenset(COMPONENTS):
            return "full"
        return [component for component in COMPONENTS if component in self.recompute]

    def fits(self, memory_bytes: float) -> bool:
        """Tell whether every rank stays within so many bytes."""
        return self.memory <= memory_bytes


def make_plan(
    job: Job,
    layout: Layout,
    *,
    recompute: frozenset[Component] = frozenset(),
    micro_batch: int | None = None,
    zero1: bool = False,
) -> Plan:
    """Count memory and time of a layout that has passed `check_layout`."""
    samples = micro_batch if micro_batch is not None else job.rows
    memory = stage_memory(job, layout, recompute=recompute, micro_batch=samples, zero1=zero1)
    holds = PartMemory(job, tp=layout.tp, dp=layout.dp, samples=samples, recompute=recompute, zero1=zero1)
    links = _links(job, layout)
    times = PartTimes(job, tp=layout.tp, links=links, samples=samples, recompute=recompute)
    stages = []
    for stage, shape in enumerate(stage_shapes(layout)):
        held = holds.held(shape)
        forward, backward = times.of_stage(shape, held, is_first=stage == 0, is_last=stage == layout.pp - 1)
        if job.task != "train":
            backward = times.answers(shape)
        trains = job.task == "train" and held.trained > 0
        stages.append(
            StagePlan(
                stage=stage,
                vision=shape.vision,
                text=shape.text,
                memory=memory[stage],
                forward=forward,
                backward=backward,
                replicas_s=replica_seconds(job, held, dp=layout.dp, near=links.replicas, zero1=zero1)
                if trains
                else 0.0,
                update_s=update_seconds(job, held, zero1=zero1) if trains else 0.0,
            )
        )
    return Plan(job=job, layout=layout, recompute=recompute, micro_batch=samples, zero1=zero1, stages=tuple(stages))


def _links(job: Job, layout: Layout) -> Links:
    return links_of(job.device.devices_per_node, tp=layout.tp, pp=layout.pp, dp=layout.dp)


def gib(size: float) -> float:
    """Give bytes in GiB."""
    return size / GIB


def plan_values(plan: Plan) -> dict[str, Any]:
    """Give a plan as values that JSON has; sizes in GiB, times in seconds, shares 0 to 1."""
    layout = plan.layout
    return {
        "layout": {
            "tp": layout.tp,
            "pp": layout.pp,
            "dp": layout.dp,
            "vision_stages": list(layout.vision_stages),
            "text_stages": list(layout.text_stages),
            "zero1": plan.zero1,
            "recompute": plan.recompute_value(),
        },
        "micro_batch": plan.at_once,
        "micro_batches": plan.micro_batches,
        "memory_gib": round(gib(plan.memory), 3),
        "fullest_stage": plan.fullest,
        "step_s": _digits(plan.step_s),
        "clock_s": _digits(plan.clock_s),
        "samples_per_s": _digits(plan.samples_per_s),
        "tokens_per_s": _digits(plan.samples_per_s * plan.job.workload.tokens),
        "mfu": round(plan.mfu, 4),
        "bubble": round(plan.bubble, 4),
        "bottleneck": plan.bottleneck,
        "shares": {name: round(share, 4) for name, share in plan.shares.items()},
        "stages": [_stage_values(stage) for stage in plan.stages],
    }


def _stage_values(stage: StagePlan) -> dict[str, Any]:
    parts = {name: round(gib(getattr(stage.memory, name)), 4) for name in stage.memory.__dataclass_fields__}
    return {
        "stage": stage.stage,
        "vision_layers": stage.vision,
        "text_layers": stage.text,
        "memory_gib": {**parts, "total": round(gib(stage.memory.total), 4)},
        "forward_s": _digits(stage.forward.total),
        "backward_s": _digits(stage.backward.total),
        "compute_s": _digits(stage.forward.compute + stage.backward.compute),
        "starting_s": _digits(stage.forward.starting + stage.backward.starting),
        "communication_s": _digits(stage.forward.communication + stage.backward.communication),
        "replicas_s": _digits(stage.replicas_s),
        "update_s": _digits(stage.update_s),
    }


def _digits(value: float) -> float:
    return float(f"{value:.5g}")
