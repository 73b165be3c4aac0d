"""What a stage is said to hold is what the parameter table puts there, and what flows fits what it holds."""

from __future__ import annotations

import pytest
from qvl_core.layout import Layout
from qvl_core.params import EMBEDDING, LM_HEAD, parameter_table
from qvl_core.specs import load_spec
from qvl_core.stage_part import StagePart, flow_after, stage_part

LAYOUTS = [
    ((4,), (4,)),
    ((4, 0), (1, 3)),
    ((4, 0), (0, 4)),
    ((2, 2, 0), (0, 1, 3)),
    ((1, 1, 2, 0), (0, 0, 1, 3)),
    ((1, 1, 1, 1, 0, 0, 0, 0), (0, 0, 0, 0, 1, 1, 1, 1)),
]


@pytest.mark.parametrize(("vision", "text"), LAYOUTS)
def test_parts_are_those_of_the_parameter_table(vision: tuple[int, ...], text: tuple[int, ...]) -> None:
    spec = load_spec("qwen2.5-vl-tiny")
    layout = Layout(pp=len(vision), vision_stages=vision, text_stages=text)
    for stage in range(layout.pp):
        names = {row.name for row in parameter_table(spec, layout) if stage in row.stages}
        part = stage_part(layout, stage)
        assert part.patch_embed == ("visual.patch_embed.proj.weight" in names)
        assert part.merger == ("visual.merger.ln_q.weight" in names)
        assert (part.embeds or part.head) == (EMBEDDING in names), "tiny's embedding is tied"
        assert part.head == ("model.norm.weight" in names)
        assert LM_HEAD not in names
        vision_layers = {int(name.split(".")[2]) for name in names if name.startswith("visual.blocks.")}
        text_layers = {int(name.split(".")[2]) for name in names if name.startswith("model.layers.")}
        assert (set(part.vision_layers), set(part.text_layers)) == (vision_layers, text_layers)


@pytest.mark.parametrize(("vision", "text"), LAYOUTS)
def test_what_a_stage_hands_on_is_what_the_next_one_can_take(vision: tuple[int, ...], text: tuple[int, ...]) -> None:
    layout = Layout(pp=len(vision), vision_stages=vision, text_stages=text)
    for stage in range(layout.pp - 1):
        flow, taker = flow_after(layout, stage), stage_part(layout, stage + 1)
        if flow == "patches":
            assert taker.vision_layers
            assert not taker.patch_embed
        elif flow == "features":
            assert taker.embeds
            assert not taker.vision_layers
        else:
            assert taker.text_layers
            assert not taker.embeds


def test_the_whole_model_is_one_part() -> None:
    part = StagePart.whole(load_spec("qwen2.5-vl-7b"))
    assert (part.vision_layers, part.text_layers) == (range(32), range(28))
    assert part.patch_embed
    assert part.merger
    assert part.embeds
    assert part.head
