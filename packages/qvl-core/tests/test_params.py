"""The parameter table against published counts, and against a brute-force walk over every legal layout."""

from itertools import product

import numpy as np
import pytest
from qvl_core.layout import Layout
from qvl_core.params import EMBEDDING, LM_HEAD, layer_stages, parameter_count, parameter_table
from qvl_core.specs import ModelSpec, TextSpec, VisionSpec, load_spec
from qvl_core.weights.sharding import cut, join

VISION_DEPTH, TEXT_DEPTH = 3, 4


def small_spec(*, tied: bool) -> ModelSpec:
    return ModelSpec(
        name="small",
        vision=VisionSpec(
            depth=VISION_DEPTH,
            hidden_size=16,
            num_heads=4,
            intermediate_size=12,
            out_hidden_size=32,
            patch_size=2,
            window_size=8,
            full_attention_blocks=(1,),
        ),
        text=TextSpec(
            num_layers=TEXT_DEPTH,
            hidden_size=32,
            intermediate_size=24,
            num_heads=8,
            num_kv_heads=4,
            vocab_size=40,
            tie_word_embeddings=tied,
            head_dim=4,
            mrope_section=(1, 1, 0),
        ),
    )


def legal_layouts():
    """Every split of the small model over 1 to 3 stages in which vision ends where text begins, for tp 1, 2, 4."""
    for pp in (1, 2, 3):
        for vision in product(range(VISION_DEPTH + 1), repeat=pp):
            for text in product(range(TEXT_DEPTH + 1), repeat=pp):
                last_vision = max((i for i, n in enumerate(vision) if n), default=0)
                first_text = min((i for i, n in enumerate(text) if n), default=pp)
                sums = sum(vision) == VISION_DEPTH and sum(text) == TEXT_DEPTH
                empty = any(v + t == 0 for v, t in zip(vision, text, strict=True))
                if sums and not empty and last_vision <= first_text:
                    for tp in (1, 2, 4):
                        yield Layout(tp=tp, pp=pp, vision_stages=vision, text_stages=text)


LAYOUTS = tuple(legal_layouts())


@pytest.mark.parametrize(
    ("name", "parameters", "tensors"),
    [
        ("qwen2.5-vl-3b", 3_754_622_976, 824),
        ("qwen2.5-vl-7b", 8_292_166_656, 729),
        ("qwen2.5-vl-32b", 33_452_718_336, 1161),
        ("qwen2.5-vl-72b", 73_410_777_344, 1353),
    ],
)
def test_counts_are_those_of_the_published_checkpoints(name, parameters, tensors):
    spec = load_spec(name)
    assert parameter_count(spec) == parameters
    assert len(parameter_table(spec)) == tensors


def test_there_are_enough_layouts_to_mean_something():
    assert len(LAYOUTS) > 60


@pytest.mark.parametrize("tied", [True, False])
def test_every_tensor_lies_on_the_stage_of_its_layer(tied):
    spec = small_spec(tied=tied)
    for layout in LAYOUTS:
        for parameter in parameter_table(spec, layout):
            assert parameter.stages == expected_stages(parameter.name, layout, tied), (parameter.name, layout)


def expected_stages(name: str, layout: Layout, tied: bool) -> tuple[int, ...]:
    """Walk the stages, counting layers, until the one that holds the name is found."""
    counts = layout.vision_stages if name.startswith("visual.") else layout.text_stages
    used = [stage for stage, count in enumerate(counts) if count]
    if name == EMBEDDING and tied:
        return tuple(sorted({used[0], used[-1]}))
    if name in (EMBEDDING, "visual.patch_embed.proj.weight"):
        return (used[0],)
    if name in (LM_HEAD, "model.norm.weight") or name.startswith("visual.merger."):
        return (used[-1],)
    index = int(name.split(".")[2])
    seen = 0
    for stage, count in enumerate(counts):
        seen += count
        if index < seen:
            return (stage,)
    raise AssertionError(name)


@pytest.mark.parametrize("tied", [True, False])
def test_the_ranks_of_every_layout_hold_the_whole_model(tied):
    spec = small_spec(tied=tied)
    whole = parameter_count(spec)
    for layout in LAYOUTS:
        table = parameter_table(spec, layout)
        held = {
            (pp, tp): sum(int(np.prod(row.local_shape(layout.tp))) for row in table if pp in row.stages)
            for pp in range(layout.pp)
            for tp in range(layout.tp)
        }
        copies = sum((layout.tp - 1) * row.size for row in table if row.shard == "replicate")
        second_embedding = sum((len(row.stages) - 1) * row.size for row in table)
        assert sum(held.values()) == whole + copies + second_embedding, layout
        assert all(held.values()), f"an empty rank: {layout}"


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("tp", [1, 2, 4])
def test_parts_have_the_local_shape_and_cover_every_element_once(tied, tp):
    for row in parameter_table(small_spec(tied=tied)):
        whole = np.arange(row.size).reshape(row.shape)
        parts = [cut(whole, row.shard, tp=tp, rank=rank) for rank in range(tp)]
        assert all(part.shape == row.local_shape(tp) for part in parts), row.name
        seen = np.concatenate([part.reshape(-1) for part in parts])
        times = tp if row.shard == "replicate" else 1
        assert np.array_equal(np.sort(seen), np.repeat(np.arange(row.size), times)), row.name
        assert np.array_equal(join(parts, row.shard), whole), row.name


def test_fused_thirds_keep_matching_heads_together():
    whole = np.arange(3 * 8).reshape(24, 1)
    part = cut(whole, "fused_thirds", tp=4, rank=1).reshape(-1)
    assert part.tolist() == [2, 3, 10, 11, 18, 19]


def test_tied_model_has_no_head_and_untied_has_one():
    assert LM_HEAD not in {row.name for row in parameter_table(small_spec(tied=True))}
    assert LM_HEAD in {row.name for row in parameter_table(small_spec(tied=False))}


def test_names_are_unique_and_components_complete():
    table = parameter_table(load_spec("qwen2.5-vl-7b"))
    assert len({row.name for row in table}) == len(table)
    assert {row.component for row in table} == {"vision", "merger", "text"}
    assert all((row.layer is not None) == (".blocks." in row.name or ".layers." in row.name) for row in table)


def test_layer_stages_spells_out_counts():
    assert layer_stages((2, 0, 1)) == (0, 0, 2)
