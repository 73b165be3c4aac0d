"""What lies on each stage of a layout: numbers of layers, and the parts before, between and after them."""

from __future__ import annotations

from dataclasses import dataclass

from qvl_core.layout import Layout


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
