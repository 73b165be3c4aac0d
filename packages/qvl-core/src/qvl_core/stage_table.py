"""What each pipeline stage holds: layers, parameters, and bytes of weights on each of its ranks."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import prod
from typing import Literal

from qvl_core.layout import Layout
from qvl_core.lora_table import Lora, adapter_table
from qvl_core.params import EMBEDDING, LM_HEAD, Component, parameter_table
from qvl_core.specs.model_spec import ModelSpec

DtypeName = Literal["bfloat16", "float32"]
DTYPE_BYTES: dict[DtypeName, int] = {"bfloat16": 2, "float32": 4}

# Parts outside the numbered layers, by the start of their parameters' names, in the order of the forward pass.
_PARTS = (
    ("visual.patch_embed.", "patch embedding"),
    ("visual.merger.", "merger"),
    (EMBEDDING, "embedding"),
    ("model.norm.", "norm"),
    (LM_HEAD, "head"),
)


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """One stage. Layer ranges are half open, (first, after last), and empty as (n, n).

    `parameters` counts the stage's whole tensors, `rank_parameters` what each of its tensor ranks holds (the same on
    all of them), `rank_bytes` the bytes of that. `trainable` counts parameters of `parameters` that no freeze holds.
    """

    stage: int
    vision_layers: tuple[int, int]
    text_layers: tuple[int, int]
    parts: tuple[str, ...]
    parameters: int
    trainable: int
    rank_parameters: int
    rank_trainable: int
    rank_bytes: int


def stage_table(
    spec: ModelSpec,
    layout: Layout,
    *,
    freeze: Collection[Component] = (),
    dtype: DtypeName = "bfloat16",
    lora: Lora | None = None,
) -> tuple[StageRow, ...]:
    """List the stages of a layout that has passed `check_layout`.

    With adapters, only they are trainable; they are not part of `parameters`. A tied embedding counts on each stage
    that holds a copy, so the column may add up to more than the model.
    """
    table = parameter_table(spec, layout)
    trainable = (
        [row for row in table if row.component not in freeze] if lora is None else adapter_table(spec, lora, layout)
    )
    rows = []
    for stage in range(layout.pp):
        held = [parameter for parameter in table if stage in parameter.stages]
        trained = [parameter for parameter in trainable if stage in parameter.stages]
        rank_parameters = sum(prod(parameter.local_shape(layout.tp)) for parameter in held)
        rows.append(
            StageRow(
                stage=stage,
                vision_layers=layer_range(layout.vision_stages, stage),
                text_layers=layer_range(layout.text_stages, stage),
                parts=tuple(part for prefix, part in _PARTS if any(p.name.startswith(prefix) for p in held)),
                parameters=sum(parameter.size for parameter in held),
                trainable=sum(parameter.size for parameter in trained),
                rank_parameters=rank_parameters,
                rank_trainable=sum(prod(parameter.local_shape(layout.tp)) for parameter in trained),
                rank_bytes=rank_parameters * DTYPE_BYTES[dtype],
            )
        )
    return tuple(rows)


def layer_range(stages: tuple[int, ...], stage: int) -> tuple[int, int]:
    """Give the layers of a stage as (first, after last): (2, 3) at stage 1 -> (2, 5)."""
    first = sum(stages[:stage])
    return first, first + stages[stage]
