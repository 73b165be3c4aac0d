"""The adapter table: every target of every component, and that its cuts fit those of the base weights."""

from typing import get_args

import numpy as np
import pytest
from qvl_core.layout import Layout
from qvl_core.lora_table import (
    COMPONENTS,
    TARGETS,
    Lora,
    LoraTarget,
    adapter_table,
    base_of,
    factor_names,
    is_factor,
    weight_table,
)
from qvl_core.params import parameter_table
from qvl_core.specs import ModelSpec, TextSpec, VisionSpec
from qvl_core.weights.sharding import cut

RANK = 3
ALL: tuple[LoraTarget, ...] = get_args(LoraTarget)
SPEC = ModelSpec(
    name="small",
    vision=VisionSpec(
        depth=2, hidden_size=16, num_heads=4, intermediate_size=12, out_hidden_size=32, patch_size=2, window_size=8,
        full_attention_blocks=(1,),
    ),
    text=TextSpec(
        num_layers=3, hidden_size=32, intermediate_size=24, num_heads=8, num_kv_heads=4, vocab_size=40,
        tie_word_embeddings=False, head_dim=4, mrope_section=(1, 1, 0),
    ),
)  # fmt: skip
PLACES = {"vision": "visual.blocks.1", "merger": "visual.merger", "text": "model.layers.1"}
# What the model has under each name, written down once more: (out, in, shard of A, shard of B).
SHAPES = {
    ("vision", "qkv"): (48, 16, "replicate", "fused_thirds"),
    ("vision", "proj"): (16, 16, "row", "replicate"),
    ("vision", "gate_proj"): (12, 16, "replicate", "column"),
    ("vision", "up_proj"): (12, 16, "replicate", "column"),
    ("vision", "down_proj"): (16, 12, "row", "replicate"),
    ("merger", "mlp.0"): (64, 64, "replicate", "column"),
    ("merger", "mlp.2"): (32, 64, "row", "replicate"),
    ("text", "q_proj"): (32, 32, "replicate", "column"),
    ("text", "k_proj"): (16, 32, "replicate", "column"),
    ("text", "v_proj"): (16, 32, "replicate", "column"),
    ("text", "o_proj"): (32, 32, "row", "replicate"),
    ("text", "gate_proj"): (24, 32, "replicate", "column"),
    ("text", "up_proj"): (24, 32, "replicate", "column"),
    ("text", "down_proj"): (32, 24, "row", "replicate"),
}


def lora(components=COMPONENTS, targets=ALL) -> Lora:
    return Lora(rank=RANK, alpha=6, dropout=0.0, components=tuple(components), targets=tuple(targets))


def test_the_targets_are_all_linear_layers_inside_the_components_and_nothing_else():
    assert {name for names in TARGETS.values() for name in names} == set(get_args(LoraTarget))
    adapted = {row.name for row in parameter_table(SPEC) if lora().adapts(row)}
    others = {"visual.patch_embed.proj.weight", "model.embed_tokens.weight", "lm_head.weight"}
    assert adapted == {row.name for row in parameter_table(SPEC) if len(row.shape) > 1} - others


@pytest.mark.parametrize(("component", "target"), SHAPES, ids=" ".join)
def test_the_factors_of_every_target_have_its_shapes_and_cuts(component, target):
    out, width, shard_a, shard_b = SHAPES[component, target]
    table = adapter_table(SPEC, lora([component], [target]))
    depth = {"vision": 2, "merger": 1, "text": 3}[component]
    assert len(table) == 2 * depth
    a, b = (row for row in table if row.name.startswith(PLACES[component]))
    assert a.name.endswith(f"{target}.lora_A.weight")
    assert b.name.endswith(f"{target}.lora_B.weight")
    assert (a.shape, b.shape) == ((RANK, width), (out, RANK))
    assert (a.shard, b.shard) == (shard_a, shard_b)
    # Of the factor that every tensor rank has, each computes its own summand of the gradient.
    assert (a.partial_gradient, b.partial_gradient) == (shard_a == "replicate", shard_b == "replicate")


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_the_product_of_a_ranks_factors_is_its_part_of_the_whole_product(tp):
    random = np.random.default_rng(0)
    table = {row.name: row for row in adapter_table(SPEC, lora())}
    for base in parameter_table(SPEC):
        if not lora().adapts(base):
            continue
        a, b = (table[name] for name in factor_names(base.name))
        whole_a, whole_b = random.standard_normal(a.shape), random.standard_normal(b.shape)
        for rank in range(tp):
            local_a, local_b = cut(whole_a, a.shard, tp=tp, rank=rank), cut(whole_b, b.shard, tp=tp, rank=rank)
            assert (local_a.shape, local_b.shape) == (a.local_shape(tp), b.local_shape(tp))
            wanted = cut(whole_b @ whole_a, base.shard, tp=tp, rank=rank)
            np.testing.assert_allclose(local_b @ local_a, wanted, rtol=1e-12, atol=1e-12)


def test_factors_lie_with_their_layers():
    layout = Layout(pp=3, vision_stages=(1, 1, 0), text_stages=(0, 1, 2))
    bases = {row.name: row for row in parameter_table(SPEC, layout)}
    for row in adapter_table(SPEC, lora(), layout):
        base = bases[base_of(row.name)]
        assert (row.stages, row.layer, row.component) == (base.stages, base.layer, base.component)


def test_only_chosen_components_and_targets_have_factors():
    names = [row.name for row in adapter_table(SPEC, lora(["text"], ["gate_proj", "qkv"]))]
    assert len(names) == 6
    assert all("model.layers." in name and ".gate_proj." in name for name in names)


def test_without_adapters_the_whole_model_trains():
    assert weight_table(SPEC) == parameter_table(SPEC)
    assert weight_table(SPEC, lora()) == adapter_table(SPEC, lora())


def test_names_lead_to_the_base_and_back():
    assert factor_names("x.q_proj.weight") == ("x.q_proj.lora_A.weight", "x.q_proj.lora_B.weight")
    assert [base_of(name) for name in factor_names("x.q_proj.weight")] == ["x.q_proj.weight"] * 2
    assert is_factor("x.lora_A.weight")
    assert not is_factor("x.weight")
    with pytest.raises(ValueError, match="is not the name"):
        base_of("x.weight")
