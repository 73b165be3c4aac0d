"""A stage has exactly its rows of the parameter table, in local shapes, for every legal layout. No other processes."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import pytest
from qvl_core import load_recipe
from qvl_core.layout import Layout
from qvl_core.layout_rules import check_layout, legal_tensor_degrees
from qvl_core.lora_table import adapter_table
from qvl_core.params import parameter_table
from qvl_core.specs.model_spec import ModelSpec
from qvl_core.stage_part import stage_part
from selection import legal_stages
from specs import SPECS

RECIPES = Path(__file__).parents[2] / "recipes"
SHIPPED = ("3b_sft", "7b_sft", "32b_sft", "72b_sft")


@dataclass(frozen=True, kw_only=True)
class PlaceOnly:
    """Stands for a tensor group where nothing is computed: it knows its size and this rank's place."""

    size: int
    index: int


@pytest.fixture(autouse=True)
def _cpu() -> None:
    from qvl_core import device

    if "mindspore" not in sys.modules:
        device.prepare("cpu")
    device.require_mindspore()


Held = list[tuple[str, tuple[int, ...]]]


def _held(spec: ModelSpec, layout: Layout, stage: int, tensor_rank: int) -> Held:
    """List the names and shapes of what a rank builds."""
    from qvl_core.model import Qwen25VL
    from qvl_core.parallel.tensor_cells import cut_cells

    model = Qwen25VL(spec, "float32", stage_part(layout, stage))
    cut_cells(model, PlaceOnly(size=layout.tp, index=tensor_rank))  # type: ignore[arg-type]
    held = [(name, tuple(parameter.shape)) for name, parameter in model.named_parameters().items()]
    # Nothing beside the table, which `named_parameters` would not show.
    assert {parameter.name for parameter in model.get_parameters()} == {name for name, _ in held}
    return held


def _rows(spec: ModelSpec, layout: Layout, stage: int) -> Held:
    return [(row.name, row.local_shape(layout.tp)) for row in parameter_table(spec, layout) if stage in row.stages]


@pytest.mark.parametrize("name", SPECS)
def test_every_stage_of_every_legal_layout_has_its_rows(name: str) -> None:
    spec, stages = SPECS[name], 0
    layers = spec.vision.depth + spec.text.num_layers
    # Many layouts have a stage with the same part of the model: it is built once, and compared with each one's table.
    built: dict[tuple[int, str], Held] = {}
    for tp, pp in product(legal_tensor_degrees(spec), range(1, min(layers, 8) + 1)):
        for vision_stages, text_stages in legal_stages(spec, pp):
            layout = Layout(tp=tp, pp=pp, vision_stages=vision_stages, text_stages=text_stages)
            for stage in range(pp):
                key = (tp, str(stage_part(layout, stage)))
                if key not in built:
                    built[key] = _held(spec, layout, stage, tensor_rank=len(built) % tp)
                assert built[key] == _rows(spec, layout, stage), (layout, stage)
                stages += 1
    assert stages > len(built) >= layers


@pytest.mark.parametrize("recipe_name", SHIPPED)
def test_every_stage_of_a_shipped_layout_has_its_rows(recipe_name: str) -> None:
    recipe = load_recipe(RECIPES / f"{recipe_name}.toml")
    layout = recipe.parallel
    spec = _narrow(recipe.spec)
    assert not check_layout(spec, layout)
    for stage, tensor_rank in product(range(layout.pp), range(layout.tp)):
        assert _held(spec, layout, stage, tensor_rank) == _rows(spec, layout, stage)


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_every_stage_of_the_shipped_adapter_recipe_has_its_factors(tp: int) -> None:
    from qvl_core.model import Qwen25VL
    from qvl_core.parallel.adapter_cells import insert_adapters
    from qvl_core.parallel.tensor_cells import cut_cells

    recipe = load_recipe(RECIPES / "7b_lora_sft.toml")
    layout, spec = replace(recipe.parallel, tp=tp), _narrow(recipe.spec)
    assert recipe.lora is not None
    assert not check_layout(spec, layout)
    table = adapter_table(spec, recipe.lora, layout)
    for stage in range(layout.pp):
        model, group = Qwen25VL(spec, "float32", stage_part(layout, stage)), PlaceOnly(size=tp, index=tp - 1)
        cut_cells(model, group)  # type: ignore[arg-type]
        insert_adapters(model, recipe.lora, group, seed=0)  # type: ignore[arg-type]
        held = {name: tuple(value.shape) for name, value in model.named_parameters().items() if value.requires_grad}
        assert held == {row.name: row.local_shape(tp) for row in table if stage in row.stages}
        rest = {name for name, value in model.named_parameters().items() if not value.requires_grad}
        assert rest == {name for name, _ in _rows(spec, layout, stage)}


def _narrow(spec: ModelSpec) -> ModelSpec:
    """Give a model of the same depths, heads and tied weights that is narrow enough to be made in a moment."""
    vision, text = spec.vision, spec.text
    return replace(
        spec,
        vision=replace(
            vision,
            hidden_size=vision.num_heads * 4,
            intermediate_size=48,
            out_hidden_size=text.num_heads * 4,
            patch_size=2,
            window_size=16,
        ),
        text=replace(
            text,
            hidden_size=text.num_heads * 4,
            head_dim=4,
            intermediate_size=64,
            vocab_size=1024,
            mrope_section=(1, 1, 0),
        ),
    )
