"""Folders of whole arrays: HF ones, sharded ones and checkpoints in any layout; small models that have many layouts.

The tests of every package that reads or writes weights use this module, by its path in the repository.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from qvl_core.params import parameter_table
from qvl_core.specs import ModelSpec, TextSpec, TokenIds, VisionSpec, to_hf_config
from qvl_core.weights.hf_writer import write_hf_folder
from qvl_core.weights.manifest import build_manifest, rank_file_name, rank_tensors, write_manifest
from qvl_core.weights.optimizer_state import optimizer_file_name, split_name
from qvl_core.weights.safetensors_header import DTYPE_BYTES
from qvl_core.weights.safetensors_writer import write_safetensors
from qvl_core.weights.sharding import cut
from qvl_core.weights.tensor_io import tensor_from_array

NUMPY = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}


def write_folder(folder, spec, layout, kinds, arrays, optimizer=None, **hf) -> Path:
    """Write an HF folder where `layout` is None, else a sharded one; `optimizer` makes it a checkpoint."""
    side = folder.with_name(f"{folder.name}-side")
    side.mkdir(parents=True)
    (side / "config.json").write_text(json.dumps(to_hf_config(spec)))
    if layout is None:
        tensors = [tensor_from_array(name, found, kinds[name]) for name, found in arrays.items()]
        write_hf_folder(tensors, side, folder, **hf)
        return folder
    folder.mkdir()
    shutil.copy(side / "config.json", folder)
    write_sharded(folder, spec, layout, arrays, optimizer, kinds)
    if optimizer is not None:
        (folder / "state.json").write_text("{}")
    return folder


def write_sharded(
    folder, spec, layout, arrays, optimizer=None, kinds=None, other_files=None, lora=None, revision="test"
) -> None:
    """Write rank files, optimizer files and manifest of whole arrays; of BF16 ones (in `kinds`) raw bits.

    With `lora` the arrays are the factors of adapters.
    """
    kinds, written = kinds or dict.fromkeys(arrays, "F32"), {}
    for pp in range(layout.pp):
        rows = {row.name: row for row in rank_tensors(spec, layout, pp, lora)}
        for tp in range(layout.tp):
            for file, whole in ((rank_file_name(pp, tp), arrays), (optimizer_file_name(pp, tp), optimizer)):
                if whole is None:
                    continue
                owners = {name: rows.get(name) or rows.get(split_name(name)[0]) for name in whole}
                parts = [
                    tensor_from_array(name, cut(whole[name], row.shard, tp=layout.tp, rank=tp), kinds.get(name))
                    for name, row in owners.items()
                    if row is not None
                ]
                written[file] = write_safetensors(folder / file, parts)
    dtypes = {name: kinds.get(name, "F32") for name in optimizer} if optimizer is not None else None
    manifest = build_manifest(
        spec,
        layout,
        written,
        kinds,
        source_revision=revision,
        optimizer_dtypes=dtypes,
        other_files=other_files,
        lora=lora,
    )
    write_manifest(folder, manifest)


def draw_tensors(spec, seed=0):
    """Give (kind, random bits) of each tensor by name: all three kinds of float, every kind of not-a-number."""
    random = np.random.default_rng(seed)
    kinds = {row.name: ("BF16", "F16", "F32")[int(random.integers(3))] for row in parameter_table(spec)}
    arrays = {}
    for row in parameter_table(spec):
        bits = random.bytes(row.size * DTYPE_BYTES[kinds[row.name]])
        arrays[row.name] = np.frombuffer(bits, NUMPY[kinds[row.name]]).reshape(row.shape)
    return kinds, arrays


def divisible_spec(tied: bool) -> ModelSpec:
    """Give a model with every kind of tensor that up to four tensor ranks can share, of few bytes."""
    return ModelSpec(
        name="qwen2.5-vl-custom",
        vision=VisionSpec(
            depth=2,
            hidden_size=16,
            num_heads=4,
            intermediate_size=12,
            out_hidden_size=32,
            patch_size=2,
            window_size=8,
            full_attention_blocks=(1,),
        ),
        text=TextSpec(
            num_layers=3,
            hidden_size=32,
            intermediate_size=24,
            num_heads=4,
            num_kv_heads=4,
            vocab_size=48,
            tie_word_embeddings=tied,
            head_dim=8,
            mrope_section=(2, 1, 1),
        ),
        tokens=TokenIds(vision_start=40, vision_end=41, image=42, video=43),
    )


def grouped_spec(tied: bool, *, depth: int, layers: int) -> ModelSpec:
    """Give a model of three query heads to a KV group, with feed-forward and vocabulary that only 2 divides."""
    base = divisible_spec(tied)
    return replace(
        base,
        vision=replace(base.vision, depth=depth, intermediate_size=22, out_hidden_size=48),
        text=replace(
            base.text,
            num_layers=layers,
            hidden_size=48,
            intermediate_size=26,
            num_heads=6,
            num_kv_heads=2,
            vocab_size=46,
        ),
    )
