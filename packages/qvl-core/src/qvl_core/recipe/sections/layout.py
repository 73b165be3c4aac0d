"""[layout]: how the model is cut over processes. The rules between these numbers are in `qvl_core.layout_rules`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict

from qvl_core.recipe.sections.section import Components, LayerCount, Section

Stages = Annotated[tuple[LayerCount, ...], Strict(False), Field(min_length=1, max_length=1024)]


class LayoutSection(Section):
    """Tensor, pipeline and data parallel degrees: tp * pp * dp processes, one device each."""

    tp: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Tensor parallel degree, processes. Divides heads, KV heads, FFN sizes and vocabulary. "
        "Default 1: no cut.",
        examples=[1],
    )
    pp: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Pipeline stages. At most one per layer. Default 1: no pipeline.",
        examples=[4],
    )
    dp: int | None = Field(
        default=None,
        ge=1,
        le=65536,
        description="Data parallel replicas. Default: the devices of the launch divided by tp * pp (on CPU: 1).",
        examples=[2],
    )
    vision_stages: Stages | None = Field(
        default=None,
        description="Vision layers on each pipeline stage: pp entries that add up to the model's vision depth. "
        "Default: derived, all on the first stage.",
        examples=[[32, 0, 0, 0]],
    )
    text_stages: Stages | None = Field(
        default=None,
        description="Text layers on each pipeline stage: pp entries that add up to the model's text layers. "
        "Default: derived, balanced by estimated cost.",
        examples=[[1, 10, 10, 7]],
    )
    zero1: bool = Field(
        default=False,
        description="Split optimizer state over the dp replicas (ZeRO stage 1). Default false: dp = 1 saves nothing.",
        examples=[True],
    )
    recompute: Literal["none", "full"] | Components = Field(
        default="none",
        description="Recompute activations in the backward pass instead of keeping them: 'none', 'full', or a list of "
        "components out of vision, merger, text. Default 'none': fastest.",
        examples=[["text"]],
    )
