# ruff: noqa: N815 (shape suffixes on fields)
"""What the forward pass needs besides weights, worked out on the host once for each batch.

Window order, attention segments, rotary cosines and sines, and the places of the vision features depend on token ids
and grids alone. Only `plan_batch` touches the device here: it moves arrays.

Legend: T tokens, P patches, C numbers in a patch, H head size, L rows with a label.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from qvl_core.batch import Batch
from qvl_core.geometry import VisionPlan, text_rotary, vision_plan, vision_rotary
from qvl_core.kernels.segments import Segments, build_segments
from qvl_core.model.layers import DTYPES
from qvl_core.specs.model_spec import ModelSpec
from qvl_core.stage_part import StagePart


@dataclass(frozen=True, kw_only=True, eq=False)
class VisionInputs:
    """Inputs of the vision encoder, patches in window order; they are None behind the stage that embeds them."""

    patches_PC: Tensor | None
    cos_PH: Tensor
    sin_PH: Tensor
    windows: Segments
    frames: Segments


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Inputs of the whole model, or of a pipeline stage: what that stage does not read is None.

    `merge_index_T` picks from text rows followed by vision rows.
    """

    ids_T: Tensor | None
    cos_TH: Tensor | None
    sin_TH: Tensor | None
    segments: Segments | None
    vision: VisionInputs | None
    merge_index_T: Tensor | None
    loss_rows_L: Tensor | None
    labels_L: Tensor | None

    def without_vision(self) -> Plan:
        """Give the plan of what comes after the vision layers, which does not hold their inputs."""
        return replace(self, vision=None)


def plan_batch(batch: Batch, spec: ModelSpec, dtype: str, part: StagePart | None = None) -> Plan:
    """Give the plan of a batch whose counts fit (data code and `flatten_prompt` have checked them).

    With `part`, only what that part of the model reads.
    """
    part = part or StagePart.whole(spec)
    vision, merge_index_T = None, None
    if len(batch.grids) and (part.vision_layers or part.embeds):
        order = vision_plan(batch.grids, spec.vision)
        if part.vision_layers:
            vision = _vision_inputs(batch.patches if part.patch_embed else None, order, dtype)
        if part.embeds:
            merge_index_T = Tensor(merge_index(batch.input_ids, order, spec))
    cos_TH, sin_TH = text_rotary(batch.position_ids, spec.text) if part.text_layers else (None, None)
    rows = batch.loss_rows if part.head else None
    return Plan(
        ids_T=Tensor(batch.input_ids) if part.embeds else None,
        cos_TH=None if cos_TH is None else Tensor(cos_TH),
        sin_TH=None if sin_TH is None else Tensor(sin_TH),
        segments=build_segments(batch.sequence_lengths) if part.text_layers else None,
        vision=vision,
        merge_index_T=merge_index_T,
        loss_rows_L=None if rows is None else Tensor(rows),
        labels_L=None if rows is None else Tensor(batch.labels[rows]),
    )


def plan_tokens(tokens_B: NDArray[np.int32], positions_3B: NDArray[np.int32], spec: ModelSpec) -> Plan:
    """Give the plan of one new text token for each of B sequences that are being generated."""
    cos_BH, sin_BH = text_rotary(positions_3B, spec.text)
    return Plan(
        ids_T=Tensor(tokens_B),
        cos_TH=Tensor(cos_BH),
        sin_TH=Tensor(sin_BH),
        segments=build_segments((1,) * len(tokens_B)),
        vision=None,
        merge_index_T=None,
        loss_rows_L=None,
        labels_L=None,
    )


def merge_index(input_ids: NDArray[np.int32], order: VisionPlan, spec: ModelSpec) -> NDArray[np.int32]:
    """Give int32 [T]: t at text tokens, T + row of the merger's output (window order) at image and video tokens."""
    index = np.arange(len(input_ids), dtype=np.int32)
    places = np.flatnonzero((input_ids == spec.tokens.image) | (input_ids == spec.tokens.video))
    assert len(places) == len(order.inverse_index), f"{len(places)} vision tokens, {len(order.inverse_index)} features"
    index[places] = len(input_ids) + order.inverse_index
    return index


def _vision_inputs(patches: NDArray[np.float32] | None, order: VisionPlan, dtype: str) -> VisionInputs:
    cos_PH, sin_PH = vision_rotary(order)
    patches_PC = None if patches is None else Tensor(patches[order.patch_index])
    return VisionInputs(
        patches_PC=patches_PC if patches_PC is None or dtype == "float32" else patches_PC.astype(DTYPES[dtype]),
        cos_PH=Tensor(cos_PH),
        sin_PH=Tensor(sin_PH),
        windows=build_segments(order.window_lengths),
        frames=build_segments(order.frame_lengths),
    )
