# ruff: noqa: N815 (shape suffixes on fields)
"""What the forward pass needs besides weights, worked out on the host once for each batch.

Window order, attention segments, rotary cosines and sines, and the places of the vision features depend on token ids
and grids alone. Only `plan_batch` touches the device here: it moves arrays.

Legend: T tokens, P patches, C numbers in a patch, H head size, L rows with a label, U merged units, E text width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from qvl_core.batch import Batch
from qvl_core.geometry import VisionPlan, text_rotary, vision_plan, vision_rotary
from qvl_core.kernels.segments import Segments, build_segments
from qvl_core.model.layers import DTYPES, tensor_of
from qvl_core.specs.model_spec import ModelSpec
from qvl_core.stage_part import StagePart


@dataclass(frozen=True, kw_only=True, eq=False)
class VisionInputs:
    """Inputs of a run of the vision encoder, patches in window order; they are None behind the stage that embeds them.

    `rows` counts the patches, on every stage.
    """

    rows: int
    patches_PC: Tensor | None
    cos_PH: Tensor
    sin_PH: Tensor
    windows: Segments
    frames: Segments


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Inputs of the whole model, or of a pipeline stage: what that stage does not read is None.

    `vision` has one entry for all media of the batch, or one for each of them where they are run apart; none without
    vision layers or media. `features_UE` is what would come of them, where that is known from before. `merge_index_T`
    picks from text rows followed by vision rows.
    """

    ids_T: Tensor | None
    cos_TH: Tensor | None
    sin_TH: Tensor | None
    segments: Segments | None
    vision: tuple[VisionInputs, ...]
    features_UE: Tensor | None
    merge_index_T: Tensor | None
    loss_rows_L: Tensor | None
    labels_L: Tensor | None

    def without_vision(self) -> Plan:
        """Give the plan of what comes after the vision layers, which does not hold their inputs."""
        return replace(self, vision=(), features_UE=None)


def plan_batch(
    batch: Batch, spec: ModelSpec, dtype: str, part: StagePart | None = None, *, apart: bool = False
) -> Plan:
    """Give the plan of a batch whose counts fit (data code and `flatten_prompt` have checked them).

    With `part`, only what that part of the model reads. With `apart`, each medium has a run of the vision encoder of
    its own: what comes of it then depends on no other, to the bit. (The order in which a matrix product sums the terms
    of a row may change with the number of rows, and short segments are padded to the length of others.)
    """
    part = part or StagePart.whole(spec)
    vision: tuple[VisionInputs, ...] = ()
    features_UE, merge_index_T = None, None
    if len(batch.grids) and part.vision_layers and batch.features is None:
        patches = batch.patches if part.patch_embed else None
        vision = plan_vision(patches, batch.grids, spec, dtype, apart=apart)
    if len(batch.grids) and part.embeds:
        merge_index_T = Tensor(merge_index(batch.input_ids, vision_plan(batch.grids, spec.vision), spec))
        features_UE = None if batch.features is None else tensor_of(batch.features, dtype)
    cos_TH, sin_TH = text_rotary(batch.position_ids, spec.text) if part.text_layers else (None, None)
    rows = batch.loss_rows if part.head else None
    return Plan(
        ids_T=Tensor(batch.input_ids) if part.embeds else None,
        cos_TH=None if cos_TH is None else Tensor(cos_TH),
        sin_TH=None if sin_TH is None else Tensor(sin_TH),
        segments=build_segments(batch.sequence_lengths) if part.text_layers else None,
        vision=vision,
        features_UE=features_UE,
        merge_index_T=merge_index_T,
        loss_rows_L=None if rows is None else Tensor(rows),
        labels_L=None if rows is None else Tensor(batch.labels[rows]),
    )


def plan_vision(
    patches: NDArray[np.float32] | None, grids: NDArray[np.int32], spec: ModelSpec, dtype: str, *, apart: bool
) -> tuple[VisionInputs, ...]:
    """Give the inputs of the vision encoder for at least one medium; `apart` as in `plan_batch`."""
    if not apart:
        return (_vision_inputs(patches, vision_plan(grids, spec.vision), dtype),)
    found: list[VisionInputs] = []
    alike: dict[tuple[int, ...], tuple[VisionPlan, VisionInputs]] = {}
    first = 0
    for grid in map(tuple, grids.tolist()):
        if grid not in alike:
            order = vision_plan([grid], spec.vision)
            alike[grid] = (order, _vision_inputs(None, order, dtype))
        order, inputs = alike[grid]
        own = None if patches is None else _patches(patches[first : first + inputs.rows], order, dtype)
        found.append(replace(inputs, patches_PC=own))
        first += inputs.rows
    return tuple(found)


def plan_tokens(tokens_B: NDArray[np.int32], positions_3B: NDArray[np.int32], spec: ModelSpec) -> Plan:
    """Give the plan of one new text token for each of B sequences in a cache, in place of segments."""
    cos_BH, sin_BH = text_rotary(positions_3B, spec.text)
    return Plan(
        ids_T=Tensor(tokens_B),
        cos_TH=Tensor(cos_BH),
        sin_TH=Tensor(sin_BH),
        segments=None,
        vision=(),
        features_UE=None,
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
    return VisionInputs(
        rows=len(order.rotary_positions),
        patches_PC=None if patches is None else _patches(patches, order, dtype),
        cos_PH=Tensor(cos_PH),
        sin_PH=Tensor(sin_PH),
        windows=build_segments(order.window_lengths),
        frames=build_segments(order.frame_lengths),
    )


def _patches(patches: NDArray[np.float32], order: VisionPlan, dtype: str) -> Tensor:
    patches_PC = Tensor(patches[order.patch_index])
    return patches_PC if dtype == "float32" else patches_PC.astype(DTYPES[dtype])
