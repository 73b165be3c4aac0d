"""Weights folders to read: HF and sharded ones of the tiny model, with random bits in every tensor."""

import json
from pathlib import Path

import numpy as np
import pytest
from qvl_core.layout import Layout
from qvl_core.params import LM_HEAD, parameter_table
from qvl_core.specs import ModelSpec, load_spec, to_hf_config
from qvl_core.weights.hf_writer import write_hf_folder
from qvl_core.weights.manifest import build_manifest, rank_file_name, rank_tensors, write_manifest
from qvl_core.weights.safetensors_writer import write_safetensors
from qvl_core.weights.sharding import cut
from qvl_core.weights.tensor_io import tensor_from_array


@pytest.fixture(scope="session")
def spec() -> ModelSpec:
    return load_spec("qwen2.5-vl-tiny")


@pytest.fixture(scope="session")
def arrays(spec) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {row.name: random.standard_normal(row.shape, np.float32) for row in parameter_table(spec)}


@pytest.fixture
def side_files(tmp_path, spec) -> Path:
    folder = tmp_path / "side"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(to_hf_config(spec)))
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def make_hf(tmp_path, arrays, side_files):
    def make(name="hf", *, dtype="F32", changes=None, tied_copy=None, **options) -> Path:
        chosen = {**arrays, **(changes or {})}
        if tied_copy is not None:
            chosen[LM_HEAD] = tied_copy
        tensors = [tensor_from_array(key, value, dtype) for key, value in chosen.items() if value is not None]
        write_hf_folder(tensors, side_files, tmp_path / name, **options)
        return tmp_path / name

    return make


@pytest.fixture
def make_sharded(tmp_path, spec, arrays):
    def make(layout: Layout | None = None, name="sharded") -> Path:
        layout = layout or Layout.single(spec)
        folder, written = tmp_path / name, {}
        folder.mkdir()
        for pp in range(layout.pp):
            for tp in range(layout.tp):
                parts = [
                    tensor_from_array(row.name, cut(arrays[row.name], row.shard, tp=layout.tp, rank=tp))
                    for row in rank_tensors(spec, layout, pp)
                ]
                written[rank_file_name(pp, tp)] = write_safetensors(folder / rank_file_name(pp, tp), parts)
        dtypes = dict.fromkeys(arrays, "F32")
        write_manifest(folder, build_manifest(spec, layout, written, dtypes, source_revision="test"))
        return folder

    return make
