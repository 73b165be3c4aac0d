"""The map between the two spellings of a model, against published numbers and an independent way to say it."""

import numpy as np
import pytest
from qvl_convert.mindspeed.key_map import fused_tensors
from qvl_core.layout import Layout
from qvl_core.params import parameter_count
from qvl_core.specs import load_spec

SIZES = {"3b": 580, "7b": 525, "32b": 777, "72b": 889}


@pytest.mark.parametrize("size", SIZES)
def test_has_as_many_tensors_as_the_reference_writes(size):
    spec = load_spec(f"qwen2.5-vl-{size}")
    fused = fused_tensors(spec, Layout.single(spec), tied_copy=False)
    assert len(fused) == len({one.key for one in fused}) == SIZES[size]


@pytest.mark.parametrize(("size", "rows"), [("3b", 2560), ("7b", 4608), ("32b", 7168), ("72b", 10240)])
def test_the_fused_text_qkv_has_the_published_rows(size, rows):
    spec = load_spec(f"qwen2.5-vl-{size}")
    shapes = {one.key: one.shape(0) for one in fused_tensors(spec, Layout.single(spec), tied_copy=False)}
    layer = "text_decoder.decoder.layers.0."
    assert shapes[f"{layer}self_attention.linear_qkv.weight"] == (rows, spec.text.hidden_size)
    assert shapes[f"{layer}self_attention.linear_qkv.bias"] == (rows,)
    assert shapes[f"{layer}mlp.linear_fc1.weight"] == (2 * spec.text.intermediate_size, spec.text.hidden_size)
    assert shapes["image_encoder.encoder.blocks.layers.31.self_attention.linear_qkv.weight"] == (3840, 1280)
    assert shapes["image_encoder.encoder.patch_embed.proj.weight"] == (1280, 3, 2, 14, 14)


def test_tensor_ranks_of_the_7b_hold_whole_groups_and_heads():
    spec = load_spec("qwen2.5-vl-7b")
    layout = Layout(tp=4, vision_stages=(32,), text_stages=(28,))
    shapes = {one.key: one.shape(3) for one in fused_tensors(spec, layout, tied_copy=False)}
    assert shapes["text_decoder.decoder.layers.27.self_attention.linear_qkv.weight"] == (1152, 3584)
    assert shapes["text_decoder.decoder.layers.27.self_attention.linear_proj.weight"] == (3584, 896)
    assert shapes["image_encoder.encoder.blocks.layers.0.mlp.linear_fc1.bias"] == (1710,)
    assert shapes["image_encoder.projector.encoder.linear_fc2.weight"] == (3584, 1280)
    assert shapes["image_encoder.projector.encoder.linear_fc2.bias"] == (3584,)
    assert shapes["text_decoder.embedding.word_embeddings.weight"] == (38016, 3584)


def test_layer_numbers_begin_at_zero_on_every_stage():
    spec = load_spec("qwen2.5-vl-7b")
    layout = Layout(pp=4, vision_stages=(32, 0, 0, 0), text_stages=(1, 10, 10, 7))
    fused = fused_tensors(spec, layout, tied_copy=False)
    names = {(one.stage, one.key): one.names for one in fused}
    assert names[2, "text_decoder.decoder.layers.0.input_layernorm.weight"] == (
        "model.layers.11.input_layernorm.weight",
    )
    assert names[3, "text_decoder.decoder.layers.6.mlp.linear_fc2.weight"] == ("model.layers.27.mlp.down_proj.weight",)
    outside = {one.key: one.stage for one in fused if ".layers." not in one.key}
    assert outside["text_decoder.output_layer.weight"] == outside["text_decoder.decoder.final_layernorm.weight"] == 3
    assert outside["image_encoder.projector.layernorm.weight"] == 0


def test_first_and_last_tensors_follow_the_stages_that_have_layers():
    spec = load_spec("qwen2.5-vl-tiny")
    layout = Layout(pp=3, vision_stages=(1, 3, 0), text_stages=(0, 1, 3))
    stages = {one.key: one.stage for one in fused_tensors(spec, layout, tied_copy=True) if ".layers." not in one.key}
    assert stages["image_encoder.encoder.patch_embed.proj.weight"] == 0
    assert stages["image_encoder.projector.encoder.linear_fc1.bias"] == 1
    assert stages["text_decoder.embedding.word_embeddings.weight"] == 1
    assert stages["text_decoder.output_layer.weight"] == 2


@pytest.mark.parametrize("size", SIZES)
def test_every_element_of_the_model_is_in_exactly_one_place(size):
    spec = load_spec(f"qwen2.5-vl-{size}")
    layout = Layout(tp=2, vision_stages=(32,), text_stages=(spec.text.num_layers,))
    covered = 0
    boxes = {}
    for one in fused_tensors(spec, layout, tied_copy=False):
        for rank in one.ranks:
            for box in rank:
                covered += box.rows * box.columns
                boxes.setdefault(box.name, []).append((box.first_row, box.first_column, box.stop_row, box.stop_column))
    assert covered == parameter_count(spec)
    for found in boxes.values():
        assert len(set(found)) == len(found)


def test_gives_the_rows_of_an_independent_model_of_the_interleave(model, cut):
    fused = {(one.stage, one.key): one for one in fused_tensors(model.spec, cut, tied_copy=cut.pp > 1)}
    seen = 0
    for stage in range(cut.pp):
        vision, text = (
            (sum(counts[:stage]), sum(counts[: stage + 1])) for counts in (cut.vision_stages, cut.text_stages)
        )
        tied_copy = model.spec.text.tie_word_embeddings and cut.pp > 1
        for rank in range(cut.tp):
            expected = model.stage(vision, text, tied_copy=tied_copy, tp=cut.tp, rank=rank)
            for key, array in expected.items():
                boxes = fused[stage, key].boxes(rank)
                rows = [
                    model.arrays[box.name].reshape(len(model.arrays[box.name]), -1)[
                        box.first_row : box.stop_row, box.first_column : box.stop_column
                    ]
                    for box in boxes
                ]
                assert np.array_equal(np.concatenate(rows).reshape(array.shape), array), key
                assert fused[stage, key].shape(rank) == array.shape
                seen += 1
    assert seen == cut.tp * len(fused)
