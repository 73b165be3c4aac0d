"""Which parts of the model a pipeline stage holds, and what crosses the border to the next stage. Pure arithmetic.

The parameter table says the same of every single weight; the model is tested to agree with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qvl_core.layout import Layout
from qvl_core.specs.model_spec import ModelSpec
from qvl_core.stage_table import layer_range

# The output of vision blocks, of the merger, of the embedding with vision features in place or of text layers.
Flow = Literal["patches", "features", "text"]


@dataclass(frozen=True, kw_only=True)
class StagePart:
    """What one stage holds. `embeds` looks tokens up and places the vision features; `head` gives the losses."""

    vision_layers: range
    text_layers: range
    patch_embed: bool
    merger: bool
    embeds: bool
    head: bool

    @classmethod
    def whole(cls, spec: ModelSpec) -> StagePart:
        """Give the part that is everything."""
        return stage_part(Layout.single(spec), 0)


def stage_part(layout: Layout, stage: int) -> StagePart:
    """Give what a stage of a layout that has passed `check_layout` holds."""
    vision = _holders(layout.vision_stages)
    text = _holders(layout.text_stages)
    return StagePart(
        vision_layers=range(*layer_range(layout.vision_stages, stage)),
        text_layers=range(*layer_range(layout.text_stages, stage)),
        patch_embed=stage == vision[0],
        merger=stage == vision[-1],
        embeds=stage == text[0],
        head=stage == text[-1],
    )


def flow_after(layout: Layout, stage: int) -> Flow:
    """Tell what a stage hands to the next one; before the first text layer, nothing for a batch without images."""
    if stage >= _holders(layout.text_stages)[0]:
        return "text"
    return "features" if stage >= _holders(layout.vision_stages)[-1] else "patches"


def _holders(stages: tuple[int, ...]) -> list[int]:
    return [stage for stage, count in enumerate(stages) if count]
