"""Activations on a rank of a stage, in bytes, with the longest samples: of the micro batch at work, and of the others.

The moment that needs most counts: the backward of one micro batch has begun, the others in flight wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qvl_core.answer_sizes import rows_in_prefill
from qvl_core.params import Component
from qvl_core.planner.activations import FP32, head_bytes, merger_bytes, text_layer_bytes, vision_layer_bytes
from qvl_core.planner.adapters import NO_ADAPTERS, adapted_layers
from qvl_core.planner.job import COMPONENTS, Job
from qvl_core.planner.stage_shape import StageShape
from qvl_core.stage_table import DTYPE_BYTES


@dataclass(frozen=True, kw_only=True)
class Working:
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
class _Layer:
    """What a layer, or the merger, takes: kept for its backward, the same of the largest of its kind, its input."""

    component: Component
    kept: float
    largest: float
    entry: float


class StageActivations:
    """Bytes that micro batches of a job take on a rank, for one tp, number of samples and recomputation."""

    def __init__(self, job: Job, *, tp: int, samples: int, recompute: frozenset[Component]) -> None:
        self._job, self._tp, self._samples, self._recompute = job, tp, samples, recompute
        self._reached = {component: job.is_reached(component) for component in COMPONENTS}
        self._element = DTYPE_BYTES[job.dtype]
        load = job.workload
        at_once = samples if job.task == "train" else rows_in_prefill(samples, load.longest)
        self._tokens = at_once * load.longest
        self._patches = at_once * load.longest_media * job.spec.vision.merge_unit
        self._layers = self._vision(), self._merger(), self._text()

    def _vision(self) -> _Layer:
        """Give a vision layer: on average over the layers, some of which attend within windows alone."""
        job, vision = self._job, self._job.spec.vision
        # A frame is not longer than the media of a sample, nor than the recipe allows.
        load = job.workload
        frame = min(load.longest_media, load.longest_frame or load.longest_media) * vision.merge_unit
        window = (vision.window_size // vision.patch_size) ** 2
        whole = len(vision.full_attention_blocks) / max(1, vision.depth)

        def size(segment: float) -> float:
            of_layer = vision_layer_bytes(
                vision,
                self._patches,
                segment,
                tp=self._tp,
                element=self._element,
                kernels=job.kernels,
                engine=job.engine,
            )
            return of_layer + self._patches * self._of_adapters("vision")

        return _Layer(
            component="vision",
            kept=size(whole * frame + (1 - whole) * window),
            largest=size(frame if vision.full_attention_blocks else window),
            entry=self._patches * vision.hidden_size * self._element,
        )

    def _merger(self) -> _Layer:
        vision = self._job.spec.vision
        size = merger_bytes(vision, self._patches, tp=self._tp, element=self._element)
        size += self._patches / vision.merge_unit * self._of_adapters("merger")
        return _Layer(
            component="merger", kept=size, largest=size, entry=self._patches * vision.hidden_size * self._element
        )

    def _text(self) -> _Layer:
        job, text = self._job, self._job.spec.text
        size = text_layer_bytes(
            text,
            self._tokens,
            job.workload.longest,
            tp=self._tp,
            element=self._element,
            kernels=job.kernels,
            engine=job.engine,
        )
        size += self._tokens * self._of_adapters("text")
        return _Layer(component="text", kept=size, largest=size, entry=self._tokens * text.hidden_size * self._element)

    def _of_adapters(self, component: Component) -> int:
        """Give what a row of a layer keeps for its adapters."""
        return adapted_layers(self._job.spec, self._job.lora).get(component, NO_ADAPTERS).kept * self._element

    def at_work(self, shape: StageShape, *, is_last: bool) -> Working:
        """Give vision, merger, text and logits of the micro batch at work: kept, and room for what runs just now.

        Most is there either when the text's backward begins, or when vision's does: then the text's activations are
        gone.
        """
        kept, rooms = self._kept(shape), self._rooms(shape)
        logits = self._logits() if is_last and shape.head else 0.0
        before = kept["vision"] + kept["merger"]
        # The loss is through before a layer's backward begins; where layers run again its tensors stay (measured).
        is_over = {component: logits * (component not in self._recompute) for component in COMPONENTS}
        of_text = max(0.0, rooms["text"] - is_over["text"]) + logits
        of_vision = max(rooms["vision"], rooms["merger"]) + logits - is_over["vision"] if before else 0.0
        kept["text"] += of_text - logits
        kept["vision"] += max(0.0, before + of_vision - sum(kept.values()) - logits) if before else 0.0
        # What runs forward only is over before the rest begins: it counts where it alone takes more.
        ahead, who = self._forward_only(shape)
        kept[who] += max(0.0, ahead - sum(kept.values()) - logits)
        return Working(
            vision=kept["vision"],
            merger=kept["merger"],
            text=kept["text"],
            logits=logits,
            before=before,
            of_text=of_text,
            of_vision=of_vision,
        )

    def _on_stage(self, shape: StageShape) -> Iterator[tuple[_Layer, int]]:
        """Yield the layers of a stage, and the merger where it is there, each with its number."""
        counts = shape.vision, int(shape.merger and shape.vision > 0), shape.text
        return ((layer, count) for layer, count in zip(self._layers, counts, strict=True) if count)

    def _kept(self, shape: StageShape) -> dict[Component, float]:
        """Give what waits for its backward."""
        kept: dict[Component, float] = {"vision": 0.0, "merger": 0.0, "text": 0.0}
        for layer, count in self._on_stage(shape):
            if self._reached[layer.component]:
                kept[layer.component] = count * (layer.entry if layer.component in self._recompute else layer.kept)
        if self._reached["vision"] and shape.vision:
            kept["vision"] += self._pixels(shape)
        return kept

    def _rooms(self, shape: StageShape) -> dict[Component, float]:
        """Give what a layer takes while its backward runs: what it kept once more for the gradients."""
        rooms: dict[Component, float] = {"vision": 0.0, "merger": 0.0, "text": 0.0}
        for layer, _ in self._on_stage(shape):
            if self._reached[layer.component]:
                rooms[layer.component] = layer.largest * (1 + (layer.component in self._recompute))
        return rooms

    def _forward_only(self, shape: StageShape) -> tuple[float, Component]:
        """Give the most that parts without a backward take, and which does: what a layer keeps is let go as it goes."""
        most: tuple[float, Component] = 0.0, "vision"
        for layer, _ in self._on_stage(shape):
            component = layer.component
            if self._reached[component]:
                continue
            taken = layer.largest + layer.entry + (self._pixels(shape) if component != "text" else 0.0)
            if self._job.keeps_features and component != "text":
                # Before the first step, one medium after the other.
                taken /= self._samples
            if taken > most[0]:
                most = taken, component
        return most

    def _pixels(self, shape: StageShape) -> float:
        vision = self._job.spec.vision
        return self._patches * vision.patch_dim * self._element if shape.patch_embed and shape.vision else 0.0

    def _logits(self) -> float:
        """Give what head and loss take; of answers the scores, in the model's dtype and fp32, gathered over ranks."""
        job, text = self._job, self._job.spec.text
        if job.task == "train":
            return head_bytes(text, self._samples * job.workload.longest_labels, tp=self._tp, element=self._element)
        scores = self._samples * text.vocab_size * ((self._element + FP32) / self._tp + 2 * FP32 * (self._tp > 1))
        # On CPU the engine keeps the head's weight in a second layout.
        copies = job.kernels == "reference" and job.copies_head
        copy = text.vocab_size * text.hidden_size * self._element / self._tp if copies else 0.0
        return scores + copy

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
        return sum(
            count * (layer.entry if layer.component in self._recompute else layer.kept)
            for layer, count in self._on_stage(shape)
            if self._reached[layer.component]
        )
