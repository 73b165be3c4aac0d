"""How much work a pipeline stage has with one micro batch, forward and backward, in multiplications.

A backward costs up to twice its forward: once for the gradient of the weights, once for that of the input. A frozen
part has no first half; a part before which nothing trains has no second half, and needs no backward at all if it is
frozen too. (The very first trainable linear could skip the second half; that is counted all the same.)

Recomputation adds forwards. Of each micro batch in flight the pipeline keeps what the stage received, and runs it
again before its backward (the recompute tape). A stage without a backward is not run again, nor are vision and merger
where both are frozen (their features are kept); the last stage goes from forward to backward at once. `[layout]
recompute` runs the layers of the named components, and the merger, once more on top.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from qvl_core import multiplications as work
from qvl_core.layout import Layout
from qvl_core.params import Component, layer_stages
from qvl_core.specs.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """What the work depends on: tokens of each sequence, patches of each image or pair of video frames, labels."""

    sequences: tuple[int, ...]
    frames: tuple[int, ...]
    labels: int


@dataclass(frozen=True, kw_only=True)
class StageWork:
    """Multiplications of one stage for one micro batch, over all its tensor ranks."""

    forward: int
    backward: int


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A layer, or a part outside the layers: work with weights, and work of attention, which has none."""

    component: Component
    stage: int
    linear: int
    attention: int = 0
    recomputable: bool = False


def stage_work(
    spec: ModelSpec,
    layout: Layout,
    batch: MicroBatch,
    *,
    freeze: Collection[Component] = (),
    recompute: Collection[Component] = (),
    recompute_tape: bool = True,
) -> tuple[StageWork, ...]:
    """List the stages' work. `recompute_tape` False: a pipeline that keeps activations between forward and backward."""
    forward, backward, again = [0] * layout.pp, [0] * layout.pp, [0] * layout.pp
    features_are_kept = {"vision", "merger"} <= set(freeze)
    reached = False
    for part in _parts(spec, layout, batch):
        whole = part.linear + part.attention
        forward[part.stage] += whole
        again[part.stage] += 0 if features_are_kept and part.component != "text" else whole
        trains = part.component not in freeze
        if trains or reached:
            backward[part.stage] += part.linear * (trains + 1) + 2 * part.attention
            if part.recomputable and part.component in recompute:
                backward[part.stage] += whole
        reached = reached or trains
    if recompute_tape:
        for stage in range(layout.pp - 1):
            backward[stage] += again[stage] if backward[stage] else 0
    return tuple(StageWork(forward=ahead, backward=back) for ahead, back in zip(forward, backward, strict=True))


def _parts(spec: ModelSpec, layout: Layout, batch: MicroBatch) -> Iterator[_Part]:
    """List the parts in the order of the forward pass. The token embedding looks up and multiplies nothing."""
    vision, text, patches = spec.vision, spec.text, sum(batch.frames)
    stage_of = layer_stages(layout.vision_stages)
    if stage_of:
        yield _Part(component="vision", stage=stage_of[0], linear=patches * work.patch_embedding(vision))
        for layer, stage in enumerate(stage_of):
            yield _Part(
                component="vision",
                stage=stage,
                linear=patches * work.vision_layer(vision),
                attention=sum(work.vision_attention(vision, layer, frame) for frame in batch.frames),
                recomputable=True,
            )
        units = patches // vision.merge_unit
        yield _Part(component="merger", stage=stage_of[-1], linear=units * work.merger(vision), recomputable=True)
    stage_of = layer_stages(layout.text_stages)
    attention = sum(work.text_attention(text, tokens) for tokens in batch.sequences)
    for stage in stage_of:
        yield _Part(
            component="text",
            stage=stage,
            linear=sum(batch.sequences) * work.text_layer(text),
            attention=attention,
            recomputable=True,
        )
    if stage_of:
        yield _Part(component="text", stage=stage_of[-1], linear=batch.labels * work.output_head(text))
