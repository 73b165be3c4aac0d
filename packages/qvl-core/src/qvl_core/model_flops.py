"""The model FLOPs of a micro batch, text and vision apart: what the mathematics of one step needs, not what ran twice.

PaLM (arXiv 2204.02311), appendix B: a multiplication with its addition is 2 FLOPs; matrix products and attention count,
norms and activations do not; what is computed again in the backward pass does not count. As there, causal attention
counts all pairs of a sequence. Counted from what the step really had: the lengths of its sequences, its images' windows
as they are (smaller at the border), and the output head on the rows with a label only.

A trained part costs twice its forward again in the backward pass, once for its weights and once for its input; a frozen
one only the second half, and nothing where there is nothing to train before it (`stage_work` has the same rules).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qvl_core import multiplications as work
from qvl_core.params import Component
from qvl_core.specs.model_spec import ModelSpec, VisionSpec

if TYPE_CHECKING:
    from qvl_core.batch import Batch

FLOPS_OF_A_MULTIPLICATION = 2


@dataclass(frozen=True, kw_only=True)
class ModelFlops:
    """FLOPs; `vision` has the merger too."""

    text: int
    vision: int

    @property
    def total(self) -> int:
        """Give both."""
        return self.text + self.vision


def batch_flops(
    batch: Batch, spec: ModelSpec, *, freeze: Collection[Component] = (), adapted: Collection[Component] = ()
) -> ModelFlops:
    """Give the FLOPs of forward and backward of a micro batch, over all ranks of a replica.

    `adapted` are frozen components with small trained parts inside (LoRA): gradients pass through them. The small
    parts themselves are not counted.
    """
    # Here: planning needs `training_flops` alone, and no numpy.
    from qvl_core.batch import IGNORE

    return training_flops(
        spec,
        sequences=batch.sequence_lengths,
        # Where the features are known from before, no vision layer runs.
        grids=batch.grids.tolist() if batch.features is None else (),
        labels=int((batch.labels != IGNORE).sum()),
        freeze=freeze,
        adapted=adapted,
    )


def training_flops(
    spec: ModelSpec,
    *,
    sequences: Sequence[int],
    grids: Sequence[Sequence[int]],
    labels: int,
    freeze: Collection[Component] = (),
    adapted: Collection[Component] = (),
) -> ModelFlops:
    """Give the same from numbers: tokens of each sequence, time, height and width of each image in patches."""
    text, tokens = spec.text, sum(sequences)
    patches = sum(slices * rows * columns for slices, rows, columns in grids)
    vision_linear, vision_attention = _vision_forward(spec.vision, grids)
    merger = patches // spec.vision.merge_unit * work.merger(spec.vision)
    text_linear = tokens * text.num_layers * work.text_layer(text) + labels * work.output_head(text)
    pairs = sum(length**2 for length in sequences)
    text_attention = 2 * pairs * text.num_heads * text.head_dim * text.num_layers
    found, is_reached = {}, False
    parts: tuple[tuple[Component, int, int], ...] = (
        ("vision", vision_linear, vision_attention),
        ("merger", merger, 0),
        ("text", text_linear, text_attention),
    )
    for component, linear, attention in parts:
        trains = component not in freeze
        has_gradient = is_reached or trains or component in adapted
        backward = linear * (trains + 1) + 2 * attention if has_gradient else 0
        found[component] = FLOPS_OF_A_MULTIPLICATION * (linear + attention + backward)
        # Without an image no gradient comes to the text from before it.
        is_reached = has_gradient and patches > 0
    return ModelFlops(text=found["text"], vision=found["vision"] + found["merger"])


def _vision_forward(vision: VisionSpec, grids: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Count the multiplications of patch embedding and layers: with weights, and of attention."""
    patches = sum(slices * rows * columns for slices, rows, columns in grids)
    linear = patches * (work.patch_embedding(vision) + vision.depth * work.vision_layer(vision))
    whole = sum(layer in vision.full_attention_blocks for layer in range(vision.depth))
    side = vision.window_size // vision.spatial_merge_size // vision.patch_size * vision.spatial_merge_size
    pairs = 0
    for slices, rows, columns in grids:
        # Windows cut both axes alike, so the sum of squared areas is a product of two sums of squares.
        inside = _sum_of_squares(rows, side) * _sum_of_squares(columns, side)
        pairs += slices * (whole * (rows * columns) ** 2 + (vision.depth - whole) * inside)
    return linear, 2 * pairs * vision.hidden_size


def _sum_of_squares(length: int, side: int) -> int:
    """Give the sum of squares of the pieces of a line cut every `side`."""
    whole, rest = divmod(length, side)
    return whole * side**2 + rest**2
