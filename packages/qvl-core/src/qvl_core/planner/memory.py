"""Memory of a rank of each pipeline stage, by component, in bytes, with the longest samples.

Weights, gradients and optimizer state follow from the parameter table, exactly. Activations are counted from the
kernels (`activations`), at the moment that needs most: the backward of one micro batch has begun, the others in flight
wait. `assumptions` says what each number rests on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from types import MappingProxyType

from qvl_core.answer_sizes import cache_tokens, rows_in_prefill
from qvl_core.layout import Layout
from qvl_core.lora_table import Lora, adapter_table
from qvl_core.parallel.schedule import micro_batches_in_flight
from qvl_core.params import Component, Parameter, parameter_table
from qvl_core.planner.activations import (
    FP32,
    head_bytes,
    merger_bytes,
    text_layer_bytes,
    vision_layer_bytes,
)
from qvl_core.planner.adapters import NO_ADAPTERS, adapted_layers
from qvl_core.planner.job import COMPONENTS, Job
from qvl_core.specs.model_spec import ModelSpec
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


@dataclass(frozen=True, kw_only=True)
class Held:
    """Elements on a rank of one part of the model: of all its tensors, of the trained ones, and of a slice of these."""

    elements: int
    trained: int
    sliced: int

    def __add__(self, other: Held) -> Held:
        return Held(
            elements=self.elements + other.elements,
            trained=self.trained + other.trained,
            sliced=self.sliced + other.sliced,
        )


@dataclass(frozen=True, kw_only=True)
class _Working:
    """Activations of the micro batch at work when they take most, without gradients.

    `before` is what vision and merger keep; `of_text` and `of_vision` what the backward of either needs beside what is
    kept.
    """

    vision: float
    merger: float
    text: float
    logits: float
    before: float
    of_text: float
    of_vision: float

    def beside(self, gradients: float, of_text: float) -> float:
        """Give what gradients, `of_text` of them the text's, take beyond the activations that they replace.

        They come as activations go (measured on CPU). Most is there at the end of the text's backward, when vision's
        begins, or at the end of that.
        """
        moments = [self.before + of_text + self.of_text]
        if self.before:
            moments += [self.before + of_text + self.of_vision, gradients + self.of_vision]
        return max(0.0, *(moment - (self.vision + self.merger + self.text + self.logits) for moment in moments))


@dataclass(frozen=True, kw_only=True)
class StageShape:
    """What a stage holds: numbers of layers, and whether it is the first or last of its kind."""

    vision: int
    text: int
    patch_embed: bool
    merger: bool
    embeds: bool
    head: bool
    vision_done: bool


def stage_shapes(layout: Layout) -> tuple[StageShape, ...]:
    """Give the shape of every stage."""
    vision, text = layout.vision_stages, layout.text_stages
    holds_vision = [stage for stage, count in enumerate(vision) if count]
    holds_text = [stage for stage, count in enumerate(text) if count]
    return tuple(
        StageShape(
            vision=vision[stage],
            text=text[stage],
            patch_embed=stage == (holds_vision[0] if holds_vision else 0),
            merger=stage == (holds_vision[-1] if holds_vision else 0),
            embeds=stage == holds_text[0],
            head=stage == holds_text[-1],
            vision_done=not holds_vision or stage >= holds_vision[-1],
        )
        for stage in range(layout.pp)
    )


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
        self._samples, self._recompute, self._zero1 = samples, recompute, zero1
        self._reached = {component: job.is_reached(component) for component in COMPONENTS}
        self._held = held_parts(job.spec, job.lora, job.alive, tp, dp)
        self._element = DTYPE_BYTES[job.dtype]
        load, vision = job.workload, job.spec.vision
        at_once = samples if job.task == "train" else rows_in_prefill(samples, load.longest)
        self._tokens = at_once * load.longest
        self._patches = at_once * load.longest_media * vision.merge_unit
        common = {"tp": tp, "element": self._element, "kernels": job.kernels, "engine": job.engine}
        self._text_layer = text_layer_bytes(job.spec.text, self._tokens, load.longest, **common)  # type: ignore[arg-type]
        window = (vision.window_size // vision.patch_size) ** 2
        whole = len(vision.full_attention_blocks) / max(1, vision.depth)
        # On average over the layers; a frame is not longer than the media of a sample.
        segment = whole * load.longest_media * vision.merge_unit + (1 - whole) * window
        self._vision_layer = vision_layer_bytes(vision, self._patches, segment, **common)  # type: ignore[arg-type]
        frame = load.longest_media * vision.merge_unit if vision.full_attention_blocks else window
        self._largest_vision = vision_layer_bytes(vision, self._patches, frame, **common)  # type: ignore[arg-type]
        self._merger = merger_bytes(vision, self._patches, tp=tp, element=self._element)
        self._head = head_bytes(job.spec.text, samples * load.longest_labels, tp=tp, element=self._element)
        adapted = adapted_layers(job.spec, job.lora)
        of_vision, of_merger, of_text = (adapted.get(one, NO_ADAPTERS).kept * self._element for one in COMPONENTS)
        self._vision_layer += self._patches * of_vision
        self._largest_vision += self._patches * of_vision
        self._merger += self._patches / vision.merge_unit * of_merger
        self._text_layer += self._tokens * of_text

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
        working = self._working(shape, is_last=is_last)
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

    def _working(self, shape: StageShape, *, is_last: bool) -> _Working:
        """Give vision, merger, text and logits of the micro batch at work: kept, and room for what runs just now.

        Most is there either when the text's backward begins, or when vision's does: then the text's activations are
        gone.
        """
        job, element = self._job, self._element
        vision_in = self._patches * job.spec.vision.hidden_size * element
        text_in = self._tokens * job.spec.text.hidden_size * element
        pixels = self._patches * job.spec.vision.patch_dim * element if shape.patch_embed and shape.vision else 0.0
        parts: tuple[tuple[Component, int, float, float, float], ...] = (
            ("vision", shape.vision, self._vision_layer, self._largest_vision, vision_in),
            ("merger", int(shape.merger and shape.vision > 0), self._merger, self._merger, vision_in),
            ("text", shape.text, self._text_layer, self._text_layer, text_in),
        )
        kept: dict[Component, float] = {"vision": 0.0, "merger": 0.0, "text": 0.0}
        rooms: dict[Component, float] = {"vision": 0.0, "merger": 0.0, "text": 0.0}
        passing, who = 0.0, parts[0][0]
        for component, layers, layer, largest, entry in parts:
            if not layers:
                continue
            if not self._reached[component]:
                # Forward only: what a layer keeps is let go as it goes.
                taken = largest + entry + (pixels if component != "text" else 0.0)
                if job.keeps_features and component != "text":
                    # Before the first step, one medium after the other.
                    taken /= self._samples
                if taken > passing:
                    passing, who = taken, component
                continue
            again = component in self._recompute
            kept[component] = layers * (entry if again else layer)
            # While its backward runs, a layer takes what it kept once more for the gradients.
            rooms[component] = largest * (1 + again)
        if self._reached["vision"] and shape.vision:
            kept["vision"] += pixels
        logits = 0.0
        if is_last and shape.head:
            logits = self._head if job.task == "train" else self._scores()
        before = kept["vision"] + kept["merger"]
        # The loss is through before a layer's backward begins; where layers run again its tensors stay (measured).
        is_over = {component: logits * (component not in self._recompute) for component in COMPONENTS}
        of_text = max(0.0, rooms["text"] - is_over["text"]) + logits
        of_vision = max(rooms["vision"], rooms["merger"]) + logits - is_over["vision"] if before else 0.0
        kept["text"] += of_text - logits
        kept["vision"] += max(0.0, before + of_vision - sum(kept.values()) - logits) if before else 0.0
        # What runs forward only is over before the rest begins: it counts where it alone takes more.
        kept[who] += max(0.0, passing - sum(kept.values()) - logits)
        return _Working(
            vision=kept["vision"],
            merger=kept["merger"],
            text=kept["text"],
            logits=logits,
            before=before,
            of_text=of_text,
            of_vision=of_vision,
        )

    def waiting(self, shape: StageShape, in_flight: int, *, is_first: bool) -> float:
        """Give what the other micro batches in flight hold, and the plan and input of this one."""
        job = self._job
        if job.task != "train":
            return 0.0
        text, vision = job.spec.text, job.spec.vision
        plan = self._tokens * text.head_dim * 2 * FP32
        width = self._patches * vision.hidden_size if not shape.vision_done else self._tokens * text.hidden_size
        entry: float = width * self._element
        pixels = self._patches * vision.patch_dim * self._element
        if is_first:
            # Features are all that is left of frozen vision.
            features = self._patches / vision.merge_unit * text.hidden_size * self._element
            entry = pixels if self._reached["merger"] or not shape.vision_done else features
        if job.keeps_features and not shape.text:
            entry = 0.0
        if job.engine.tape:
            return in_flight * (entry + plan)
        kept = self._layers_kept(shape)
        return (in_flight - 1) * (entry + kept) + in_flight * plan

    def _layers_kept(self, shape: StageShape) -> float:
        """Give the activations of a micro batch that waits where there is no tape."""
        job, element = self._job, self._element
        total = 0.0
        parts: tuple[tuple[Component, int, float, float], ...] = (
            ("vision", shape.vision, self._vision_layer, self._patches * job.spec.vision.hidden_size * element),
            ("merger", int(shape.merger), self._merger, self._patches * job.spec.vision.hidden_size * element),
            ("text", shape.text, self._text_layer, self._tokens * job.spec.text.hidden_size * element),
        )
        for component, layers, layer, entry in parts:
            if self._reached[component]:
                total += layers * (entry if component in self._recompute else layer)
        return total

    def _scores(self) -> float:
        """Give the scores of the rows answered at a time, in the model's dtype and fp32, gathered over tensor ranks."""
        job, text = self._job, self._job.spec.text
        scores = self._samples * text.vocab_size * ((self._element + FP32) / self._tp + 2 * FP32 * (self._tp > 1))
        # On CPU the engine keeps the head's weight in a second layout.
        copies = job.kernels == "reference" and job.copies_head
        copy = text.vocab_size * text.hidden_size * self._element / self._tp if copies else 0.0
        return scores + copy

    def cache_bytes(self, shape: StageShape) -> float:
        """Give keys and values of the rows answered at a time, prompt and answer, as much as the cache may grow to."""
        job, text = self._job, self._job.spec.text
        tokens = cache_tokens(job.batch, job.longest_answered, job.held_tokens)
        return shape.text * tokens * 2 * text.num_kv_heads / self._tp * text.head_dim * self._element

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


def held_parts(spec: ModelSpec, lora: Lora | None, alive: frozenset[Component], tp: int, dp: int) -> Mapping[str, Held]:
    """Count each kind of part once; all layers of a component are alike."""
    found: dict[str, Held] = {}
    nothing = Held(elements=0, trained=0, sliced=0)
    for name, sizes in _elements(spec, None, None, tp).items():
        found[name] = replace(nothing, elements=sum(sizes))
    for name, sizes in _elements(spec, lora, alive, tp).items():
        sliced = sum(slice_length(size, dp) for size in sizes)
        found[name] += Held(elements=0, trained=sum(sizes), sliced=sliced)
    return MappingProxyType(found)


@lru_cache(maxsize=64)
def _elements(
    spec: ModelSpec, lora: Lora | None, alive: frozenset[Component] | None, tp: int
) -> Mapping[str, tuple[int, ...]]:
    """List the elements on a rank of each tensor of a part: of the trained ones, or of all where none is `alive`."""
    if lora is not None:
        rows = adapter_table(spec, lora)
    else:
        rows = tuple(row for row in parameter_table(spec) if alive is None or row.component in alive)
    found: dict[str, tuple[int, ...]] = {}
    for row in rows:
        if row.layer in (None, 0):
            found[_part(row)] = (*found.get(_part(row), ()), prod(row.local_shape(tp)))
    return MappingProxyType(found)


def held_of(parts: Mapping[str, Held], shape: StageShape) -> Held:
    """Give the elements of a stage, with what `held_parts` gives."""
    elements = trained = sliced = 0
    for count, part in (
        (shape.vision, "vision"),
        (shape.text, "text"),
        (shape.patch_embed, "patch_embed"),
        (shape.merger, "merger"),
        (shape.embeds, "embedding"),
        (shape.head, "norm"),
        (shape.head and (not shape.embeds or "head" in parts), "head" if "head" in parts else "embedding"),
    ):
        if count:
            found = parts[part]
            elements += count * found.elements
            trained += count * found.trained
            sliced += count * found.sliced
    return Held(elements=elements, trained=trained, sliced=sliced)


def slice_length(size: int, replicas: int) -> int:
    """Give the elements of a replica's slice of a tensor, rounded up as `qvl_train.slices` does."""
    return -(-size // replicas)


def _part(row: Parameter) -> str:
    if row.layer is not None:
        return row.component
    for start, name in (
        ("visual.patch_embed.", "patch_embed"),
        ("visual.merger.", "merger"),
        ("model.embed_tokens.", "embedding"),
        ("model.norm.", "norm"),
    ):
        if row.name.startswith(start):
            return name
    return "head"
