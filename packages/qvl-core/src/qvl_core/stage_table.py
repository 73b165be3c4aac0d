"""What each pipeline stage holds: layers, parameters, and bytes of weights on each of its ranks."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import prod
from typing import Literal

from qvl_core.layout import Layout
from qvl_core.params import EMBEDDING, LM_HEAD, Component, Parameter, parameter_table
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


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """Low-rank adapters: every text projection named in `targets` gets two matrices of inner size `rank`."""

    rank: int
    targets: tuple[str, ...]

    def size(self, parameter: Parameter, tp: int = 1) -> int:
        """Count the adapter parameters of one weight on each of `tp` ranks; 0 for a weight without an adapter."""
        words = parameter.name.split(".")
        if parameter.component != "text" or words[-1] != "weight" or words[-2] not in self.targets:
            return 0
        return self.rank * sum(parameter.local_shape(tp))


def stage_table(
    spec: ModelSpec,
    layout: Layout,
    *,
    freeze: Collection[Component] = (),
    dtype: DtypeName = "bfloat16",
    adapters: Adapters | None = None,
) -> tuple[StageRow, ...]:
    """List the stages of a layout that has passed `check_layout`.

    With adapters, only they are trainable; they are not part of `parameters`. A tied embedding counts on each stage
    that holds a copy, so the column may add up to more than the model.
    """
    table = parameter_table(spec, layout)
    rows = []
    for stage in range(layout.pp):
        held = [parameter for parameter in table if stage in parameter.stages]
        trained = [parameter for parameter in held if parameter.component not in freeze]
        rank_parameters = sum(prod(parameter.local_shape(layout.tp)) for parameter in held)
        rows.append(
            StageRow(
                stage=stage,
                vision_layers=layer_range(layout.vision_stages, stage),
                text_layers=layer_range(layout.text_stages, stage),
                parts=tuple(part for prefix, part in _PARTS if any(p.name.startswith(prefix) for p in held)),
                parameters=sum(parameter.size for parameter in held),
                trainable=_trainable(held, trained, adapters, 1),
                rank_parameters=rank_parameters,
                rank_trainable=_trainable(held, trained, adapters, layout.tp),
                rank_bytes=rank_parameters * DTYPE_BYTES[dtype],
            )
        )
    return tuple(rows)


def layer_range(stages: tuple[int, ...], stage: int) -> tuple[int, int]:
    """Give the layers of a stage as (first, after last): (2, 3) at stage 1 -> (2, 5)."""
    first = sum(stages[:stage])
    return first, first + stages[stage]


def _trainable(held: list[Parameter], trained: list[Parameter], adapters: Adapters | None, tp: int) -> int:
    if adapters is not None:
        return sum(adapters.size(parameter, tp) for parameter in held)
    return sum(prod(parameter.local_shape(tp)) for parameter in trained)
