"""Weights folders to read: HF and sharded ones of the tiny model, with random bits in every tensor."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from qvl_core.layout import Layout
from qvl_core.params import LM_HEAD, parameter_table
from qvl_core.specs import ModelSpec, load_spec, to_hf_config
from qvl_core.weights.hf_writer import write_hf_folder
from qvl_core.weights.tensor_io import tensor_from_array

# pytest's importlib mode adds no folder to the path; the helper lies beside the tests.
sys.path.insert(0, str(Path(__file__).parent))

from sharded_folders import write_sharded


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
    def make(layout: Layout | None = None, name="sharded", optimizer=None) -> Path:
        """Write a folder; with `optimizer`, {"<parameter>.<kind>": whole array}, also the optimizer's files."""
        folder = tmp_path / name
        folder.mkdir()
        write_sharded(folder, spec, layout or Layout.single(spec), arrays, optimizer)
        return folder

    return make
