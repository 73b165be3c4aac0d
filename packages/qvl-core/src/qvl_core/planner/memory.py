"""Memory of a rank of each pipeline stage, by component, in bytes.

Weights, gradients and optimizer state follow from the parameter table (`held`), exactly. Activations (`micro_batch`)
are those of the longest samples. `assumptions` says what each number rests on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from qvl_core.answer_sizes import cache_tokens
from qvl_core.layout import Layout
from qvl_core.parallel.schedule import micro_batches_in_flight
from qvl_core.params import Component
from qvl_core.planner.activations import FP32
from qvl_core.planner.held import Held, held_of, held_parts
from qvl_core.planner.job import Job
from qvl_core.planner.micro_batch import StageActivations
from qvl_core.planner.stage_shape import StageShape, stage_shapes
from qvl_core.stage_table import DTYPE_BYTES

GIB = 1024**3
MIB = 1024**2
# Elements of a bucket of gradients or weights on their way over the replicas (qvl_train.slices, qvl_core.parallel).
_BUCKET = 1 << 24


@dataclass(frozen=True, kw_only=True)
class MemoryParts:
    """Bytes on one rank of a stage. Optimizer state with ZeRO-1 is a replica's slice.

    `gradients` are the fp32 sums, `new_gradients` those of one micro batch before they are added, as far as they take
    more than the activations that they replace. `in_flight` is what
    waits of other micro batches; vision, merger, text and logits are those of the one at work. `evaluation` is what a
    training's evaluation takes beyond all that only a step needs: cache, prompts and scores.
    """

    weights: int
    gradients: int
    new_gradients: float
    master: int
    moments: int
    vision: float
    merger: float
    text: float
    logits: float
    in_flight: float
    kv_cache: float
    communication: float
    base: float
    evaluation: float = 0.0

    @property
    def total(self) -> float:
        """Give the sum."""
        return self.without_evaluation + self.evaluation

    @property
    def without_evaluation(self) -> float:
        """Give what it is while a step runs."""
        model = self.weights + self.gradients + self.new_gradients + self.master + self.moments
        activations = self.vision + self.merger + self.text + self.logits + self.in_flight
        return model + activations + self.kv_cache + self.communication + self.base

    @property
    def state(self) -> int:
        """Give what is there between steps: weights, gradient sums, optimizer."""
        return self.weights + self.gradients + self.master + self.moments


def stage_memory(
    job: Job,
    layout: Layout,
    *,
    recompute: frozenset[Component] = frozenset(),
    micro_batch: int | None = None,
    zero1: bool = False,
) -> tuple[MemoryParts, ...]:
    """List the memory of a rank of every stage of a layout that has passed `check_layout`."""
    samples = micro_batch if micro_batch is not None else job.rows
    micro_batches = max(1, job.global_batch // (samples * layout.dp))
    costs = PartMemory(job, tp=layout.tp, dp=layout.dp, samples=samples, recompute=recompute, zero1=zero1)
    return tuple(
        costs.of_stage(
            shape,
            in_flight=micro_batches_in_flight(stage, layout.pp, micro_batches),
            is_first=stage == 0,
            is_last=stage == layout.pp - 1,
            communicators=1 + (layout.tp > 1) + (layout.pp > 1) + (layout.dp > 1),
        )
        for stage, shape in enumerate(stage_shapes(layout))
    )


class PartMemory:
    """Bytes of the parts of a job's model for one tp, dp, micro batch and recomputation, to be put into stages."""

    def __init__(
        self, job: Job, *, tp: int, dp: int, samples: int, recompute: frozenset[Component], zero1: bool
    ) -> None:
        self._job, self._tp, self._dp = job, tp, dp
        self._answering: PartMemory | None = None
        if job.evaluation is not None:
            self._answering = PartMemory(
                job.evaluation, tp=tp, dp=dp, samples=job.evaluation.batch, recompute=frozenset(), zero1=False
            )
        self._zero1, self._element = zero1, DTYPE_BYTES[job.dtype]
        self._held = held_parts(job.spec, job.lora, job.alive, tp, dp)
        self._activations = StageActivations(job, tp=tp, samples=samples, recompute=recompute)

    def held(self, shape: StageShape) -> Held:
        """Give the elements of a stage."""
        return held_of(self._held, shape)

    def state_bytes(self, held: Held) -> int:
        """Give weights, gradient sums and optimizer state of so many elements."""
        adapters = held.trained if self._job.lora is not None else 0
        master, moments = self._optimizer(held)
        return held.elements * self._element + (adapters + held.trained) * FP32 + master + moments

    def _optimizer(self, held: Held) -> tuple[int, int]:
        """Give master weights and moments."""
        own = held.sliced if self._zero1 else held.trained
        # fp32 parameters are their own masters, unless a replica has a slice only; adapters are fp32.
        is_own_master = (self._job.dtype == "float32" or self._job.lora is not None) and not self._zero1
        return (0 if is_own_master else own * FP32), own * 2 * FP32

    def least_bytes(self, whole: StageShape, stages: int, communicators: int) -> float:
        """Give bytes that the fullest of so many stages takes at least: what `whole` holds and caches spread evenly.

        Activations are left out; what every rank takes is not spread.
        """
        job, held = self._job, self.held(whole)
        spread = float(self.state_bytes(held))
        every = job.device.base_gib * GIB + self._buffers(communicators)
        if job.task != "train":
            spread += self.cache_bytes(whole)
        elif self._dp > 1 and self._zero1:
            spread += held.sliced * FP32
        # Sums of numbers this large are not exact to the last bit.
        return (every + spread / stages) * (1 - 1e-12)

    def of_stage(
        self, shape: StageShape, *, in_flight: int, is_first: bool, is_last: bool, communicators: int
    ) -> MemoryParts:
        """Give the memory of a rank of a stage."""
        waiting = self.waiting(shape, in_flight, is_first=is_first)
        found = replace(self.without_waiting(shape, is_last=is_last, communicators=communicators), in_flight=waiting)
        evaluating = self.evaluating(shape, found, is_last=is_last)
        return replace(found, evaluation=max(0.0, evaluating - found.without_evaluation))

    def evaluating(self, shape: StageShape, parts: MemoryParts, *, is_last: bool) -> float:
        """Give the memory of a rank of a stage while a training's evaluation answers; 0 where it has none."""
        if self._answering is None:
            return 0.0
        answers = self._answering.without_waiting(shape, is_last=is_last, communicators=1)
        moving = answers.vision + answers.merger + answers.text + answers.logits + answers.kv_cache
        return parts.state + parts.communication + parts.base + moving

    def without_waiting(self, shape: StageShape, *, is_last: bool, communicators: int) -> MemoryParts:
        """Give the memory of a rank of a stage but for what micro batches in flight hold: where it lies is the same."""
        job = self._job
        held = self.held(shape)
        trains = job.task == "train"
        adapters = held.trained if job.lora is not None else 0
        master, moments = self._optimizer(held)
        new = held.trained * (FP32 if job.lora is not None else self._element)
        whole = trains and job.engine.whole_gradients
        working = self._activations.at_work(shape, is_last=is_last)
        return MemoryParts(
            weights=held.elements * self._element + adapters * FP32,
            gradients=held.trained * FP32,
            new_gradients=working.beside(new, new * self._text_share(shape, held)) if whole else 0.0,
            master=master,
            moments=moments,
            vision=working.vision,
            merger=working.merger,
            text=working.text,
            logits=working.logits,
            in_flight=0.0,
            kv_cache=0.0 if trains else self.cache_bytes(shape),
            communication=self._communication(held, communicators),
            base=job.device.base_gib * GIB,
        )

    def _text_share(self, shape: StageShape, held: Held) -> float:
        """Give the part of a stage's trained elements that is text's: its gradients are there before vision's."""
        before = shape.vision * self._held["vision"].trained
        before += self._held["patch_embed"].trained if shape.patch_embed else 0
        before += self._held["merger"].trained if shape.merger else 0
        return (held.trained - before) / held.trained if held.trained else 0.0

    def waiting(self, shape: StageShape, in_flight: int, *, is_first: bool) -> float:
        """Give what the other micro batches in flight hold, and the plan and input of this one."""
        return self._activations.waiting(shape, in_flight, is_first=is_first)

    def cache_bytes(self, shape: StageShape) -> float:
        """Give keys and values of the rows answered at a time, prompt and answer, as much as the cache may grow to."""
        return shape.text * cache_bytes(self._job, self._job.batch) / self._tp

    def _communication(self, held: Held, communicators: int) -> float:
        """Give the communicators' buffers, and a bucket or two on the way over the replicas."""
        bucket = 0.0
        if self._dp > 1 and held.trained:
            # Packed gradients and their sum, and a replica's slices of all of them.
            bucket = 2 * min(held.trained, _BUCKET) * FP32
            bucket += held.sliced * FP32 if self._zero1 else 0
        return self._buffers(communicators) + bucket

    def _buffers(self, communicators: int) -> float:
        return communicators * 2 * self._job.device.buffer_mib * MIB if communicators > 1 else 0.0


def cache_bytes(job: Job, rows: int) -> int:
    """Give keys and values of a text layer, of so many rows as long as they may become, all heads."""
    text = job.spec.text
    tokens = cache_tokens(rows, job.longest_answered, job.held_tokens)
    return tokens * 2 * text.num_kv_heads * text.head_dim * DTYPE_BYTES[job.dtype]
