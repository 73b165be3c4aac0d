"""Files of the reference stack's form that torch itself saves are read to the bit, and torch reads those that we write.

The fused tensors are made here with torch's own chunk, split and cat, so that the map is compared with something that
is not ours.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import OrderedDict

import numpy as np
import pytest
import torch
from qvl_convert.mindspeed.plan import plan_mindspeed
from qvl_convert.mindspeed.source import open_mindspeed
from qvl_convert.mindspeed.torch_archive import open_archive
from qvl_convert.mindspeed.unpickler import unpickle
from qvl_convert.run_job import run_job
from qvl_core.errors import WeightsError
from qvl_core.layout import Layout
from qvl_core.params import parameter_table
from qvl_core.specs import ModelSpec, to_hf_config
from qvl_core.weights.row_reader import OpenFiles, RowReader
from qvl_core.weights.whole_tensors import open_whole_tensors
from safetensors.torch import save_file
from sharded_folders import grouped_spec

DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
COLUMNS = ("linear_proj.weight", "linear_fc2.weight")
LAYOUTS = (
    Layout(vision_stages=(2,), text_stages=(3,)),
    Layout(vision_stages=(2,), text_stages=(3,), tp=2),
    Layout(vision_stages=(2, 0, 0), text_stages=(1, 1, 1), pp=3),
    Layout(vision_stages=(1, 1), text_stages=(0, 3), pp=2, tp=2),
)


def spec_of(*, tied: bool) -> ModelSpec:
    return grouped_spec(tied, depth=2, layers=3)


def weights_of(spec: ModelSpec, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Random bits, infinities and NaN among them."""
    generator = torch.Generator().manual_seed(3)
    unsigned = torch.int32 if dtype == torch.float32 else torch.int16
    low, high = (torch.iinfo(unsigned).min, torch.iinfo(unsigned).max)
    return {
        row.name: torch.randint(low, high, row.shape, dtype=unsigned, generator=generator).view(dtype)
        for row in parameter_table(spec)
    }


def interleaved(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, groups: int) -> torch.Tensor:
    return torch.cat([part for group in zip(*(one.chunk(groups) for one in (q, k, v)), strict=True) for part in group])


def fused(spec: ModelSpec, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The reference's tensors of the whole model on one rank."""
    out = {"image_encoder.encoder.patch_embed.proj.weight": weights["visual.patch_embed.proj.weight"]}
    for i in range(spec.vision.depth):
        hf, mm = f"visual.blocks.{i}.", f"image_encoder.encoder.blocks.layers.{i}."
        out[f"{mm}input_layernorm.weight"] = weights[f"{hf}norm1.weight"]
        out[f"{mm}pre_mlp_layernorm.weight"] = weights[f"{hf}norm2.weight"]
        for kind in ("weight", "bias"):
            q, k, v = weights[f"{hf}attn.qkv.{kind}"].chunk(3)
            out[f"{mm}self_attention.linear_qkv.{kind}"] = interleaved(q, k, v, spec.vision.num_heads)
            out[f"{mm}self_attention.linear_proj.{kind}"] = weights[f"{hf}attn.proj.{kind}"]
            gate_up = [weights[f"{hf}mlp.{name}_proj.{kind}"] for name in ("gate", "up")]
            out[f"{mm}mlp.linear_fc1.{kind}"] = torch.cat(gate_up)
            out[f"{mm}mlp.linear_fc2.{kind}"] = weights[f"{hf}mlp.down_proj.{kind}"]
    out["image_encoder.projector.layernorm.weight"] = weights["visual.merger.ln_q.weight"]
    for kind in ("weight", "bias"):
        out[f"image_encoder.projector.encoder.linear_fc1.{kind}"] = weights[f"visual.merger.mlp.0.{kind}"]
        out[f"image_encoder.projector.encoder.linear_fc2.{kind}"] = weights[f"visual.merger.mlp.2.{kind}"]
    out["text_decoder.embedding.word_embeddings.weight"] = weights["model.embed_tokens.weight"]
    for i in range(spec.text.num_layers):
        hf, mm = f"model.layers.{i}.", f"text_decoder.decoder.layers.{i}."
        out[f"{mm}input_layernorm.weight"] = weights[f"{hf}input_layernorm.weight"]
        out[f"{mm}pre_mlp_layernorm.weight"] = weights[f"{hf}post_attention_layernorm.weight"]
        for kind in ("weight", "bias"):
            q, k, v = (weights[f"{hf}self_attn.{name}_proj.{kind}"] for name in "qkv")
            out[f"{mm}self_attention.linear_qkv.{kind}"] = interleaved(q, k, v, spec.text.num_kv_heads)
        out[f"{mm}self_attention.linear_proj.weight"] = weights[f"{hf}self_attn.o_proj.weight"]
        out[f"{mm}mlp.linear_fc1.weight"] = torch.cat(
            [weights[f"{hf}mlp.{name}_proj.weight"] for name in ("gate", "up")]
        )
        out[f"{mm}mlp.linear_fc2.weight"] = weights[f"{hf}mlp.down_proj.weight"]
    out["text_decoder.decoder.final_layernorm.weight"] = weights["model.norm.weight"]
    if "lm_head.weight" in weights:
        out["text_decoder.output_layer.weight"] = weights["lm_head.weight"]
    return out


def rank_state(spec: ModelSpec, whole: dict[str, torch.Tensor], layout: Layout, stage: int, rank: int) -> OrderedDict:
    """One rank's part: slices are views, as they are in the reference's converter."""
    if spec.text.tie_word_embeddings and layout.pp > 1:
        embedding = whole["text_decoder.embedding.word_embeddings.weight"]
        whole = {**whole, "text_decoder.output_layer.weight": embedding}
    state = OrderedDict()
    for key, tensor in whole.items():
        stages = layout.vision_stages if key.startswith("image") else layout.text_stages
        first = sum(stages[:stage])
        head, mark, tail = key.partition(".layers.")
        if mark:
            layer, _, rest = tail.partition(".")
            if not first <= int(layer) < first + stages[stage]:
                continue
            key = f"{head}.layers.{int(layer) - first}.{rest}"
        else:
            holders = [number for number, count in enumerate(stages) if count]
            early = "patch_embed" in key or "word_embeddings" in key
            if stage != (holders[0] if early else holders[-1]):
                continue
        state[key] = sliced(key, tensor, layout.tp, rank)
    return state


def sliced(key: str, tensor: torch.Tensor, tp: int, rank: int) -> torch.Tensor:
    if tp == 1:
        return tensor
    if key.endswith(COLUMNS):
        return tensor.chunk(tp, dim=1)[rank]
    if ".mlp.linear_fc1" in key:
        return torch.cat([half.chunk(tp)[rank] for half in tensor.chunk(2)])
    if any(part in key for part in ("linear_qkv", "linear_fc1", "word_embeddings", "output_layer")):
        return tensor.chunk(tp)[rank]
    return tensor.clone()


def rank_path(folder, layout: Layout, stage: int, rank: int):
    name = f"mp_rank_{rank:02d}" + (f"_{stage:03d}" if layout.pp > 1 else "")
    return folder / "release" / name / "model_optim_rng.pt"


def save_folder(folder, spec, weights, layout, **options):
    whole = fused(spec, weights)
    for stage in range(layout.pp):
        for rank in range(layout.tp):
            path = rank_path(folder, layout, stage, rank)
            path.parent.mkdir(parents=True)
            state = {"model": rank_state(spec, whole, layout, stage, rank), "checkpoint_version": 3.0}
            torch.save({**state, **options.get("more", {})}, path, pickle_protocol=options.get("protocol", 2))
    (folder / "latest_checkpointed_iteration.txt").write_text("release")
    return folder


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same(source, weights) -> None:
    assert set(source.tensors) == set(weights)
    with OpenFiles(source.inputs) as files:
        for name, tensor in source.tensors.items():
            assert tensor.shape == tuple(weights[name].shape)
            assert tensor.dtype == DTYPES[weights[name].dtype]
            assert RowReader(tensor, files).read(0, tensor.rows).tobytes() == bits(weights[name]), name


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"tp{layout.tp}-pp{layout.pp}")
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_files_that_torch_saved_are_read_to_the_bit(tmp_path, layout, tied):
    spec = spec_of(tied=tied)
    weights = weights_of(spec, torch.bfloat16)
    assert_same(open_mindspeed(save_folder(tmp_path / "mm", spec, weights, layout), spec), weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_dtype_and_pickle_protocol_is_read(tmp_path, dtype, protocol):
    spec = spec_of(tied=False)
    weights = weights_of(spec, dtype)
    folder = save_folder(tmp_path / "mm", spec, weights, LAYOUTS[1], protocol=protocol)
    assert_same(open_mindspeed(folder, spec), weights)


def test_what_a_training_run_saves_beside_the_weights_is_no_obstacle(tmp_path):
    spec = spec_of(tied=False)
    weights = weights_of(spec, torch.bfloat16)
    args = argparse.Namespace(
        params_dtype=torch.bfloat16,
        device=torch.device("cpu"),
        shape=torch.Size((2, 3)),
        lr=1e-5,
        seed=2**40,
        names=["a", None],
        kinds={1, 2},
        scale=np.float32(0.5),
        array=np.arange(5),
    )
    rng = {
        "random_rng_state": random.getstate(),
        "np_rng_state": np.random.get_state(),
        "torch_rng_state": torch.get_rng_state(),
        "rng_tracker_states": {"model-parallel-rng": torch.get_rng_state()},
    }
    more = {
        "args": args,
        "iteration": 5000,
        "rng_state": [rng],
        "opt_param_scheduler": {"max_lr": 1e-5, "num_steps": 7},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-5, "params": [0]}]},
    }
    folder = save_folder(tmp_path / "mm", spec, weights, LAYOUTS[1], more=more)
    assert_same(open_mindspeed(folder, spec), weights)


def test_parameters_and_tensors_that_share_a_storage_are_read(tmp_path):
    both = torch.arange(12, dtype=torch.float32)
    state = OrderedDict(parameter=torch.nn.Parameter(both[:4]), view=both[4:].reshape(2, 4), again=both, nothing=None)
    path = tmp_path / "x.pt"
    torch.save(state, path)
    archive = open_archive(path)
    found = unpickle(archive.pickle, path)
    assert len({found[key].storage.key for key in ("parameter", "view", "again")}) == 1
    assert (found["view"].offset, found["view"].shape, found["nothing"]) == (4, (2, 4), None)


def test_a_file_without_checksums_is_read(tmp_path):
    spec = spec_of(tied=True)
    weights = weights_of(spec, torch.bfloat16)
    torch.serialization.set_crc32_options(False)
    try:
        folder = save_folder(tmp_path / "mm", spec, weights, LAYOUTS[0])
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same(open_mindspeed(folder, spec), weights)


def test_the_old_format_is_refused_with_a_way_out(tmp_path):
    torch.save({"model": {"a": torch.zeros(3)}}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(WeightsError, match=r"before version 1\.6"):
        open_archive(tmp_path / "x.pt")


def test_a_whole_module_is_refused_and_names_its_class(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"torch\.nn\.modules\.linear\.Linear"):
        unpickle(open_archive(tmp_path / "x.pt").pickle, tmp_path / "x.pt")


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"tp{layout.tp}-pp{layout.pp}")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_torch_loads_what_we_write_to_the_bit(tmp_path, layout, dtype, tied):
    spec = spec_of(tied=tied)
    weights = weights_of(spec, dtype)
    (tmp_path / "hf").mkdir()
    save_file(weights, tmp_path / "hf" / "model.safetensors")
    (tmp_path / "hf" / "config.json").write_text(json.dumps(to_hf_config(spec)))
    job = plan_mindspeed(open_whole_tensors(tmp_path / "hf"), layout)
    run_job(job, tmp_path / "mm", overwrite=False, advance=lambda count: None)
    whole = fused(spec, weights)
    for stage in range(layout.pp):
        for rank in range(layout.tp):
            expected = rank_state(spec, whole, layout, stage, rank)
            for mmap in (False, True):
                path = rank_path(tmp_path / "mm", layout, stage, rank)
                state = torch.load(path, weights_only=True, mmap=mmap)
                assert set(state) == {"model", "checkpoint_version"}
                assert state["checkpoint_version"] == 3.0
                assert isinstance(state["model"], OrderedDict)
                assert set(state["model"]) == set(expected)
                for key, tensor in state["model"].items():
                    assert tensor.dtype == dtype
                    assert tensor.shape == expected[key].shape
                    assert tensor.is_contiguous()
                    assert bits(tensor) == bits(expected[key]), key
