"""Every layout shows the same whole tensors, in blocks of bounded size, and damage is found while reading."""

import numpy as np
import pytest
from qvl_convert import whole_tensors
from qvl_convert.whole_tensors import blocks, open_whole_tensors
from qvl_core.errors import RunError, WeightsError
from qvl_core.layout import Layout
from qvl_core.weights.manifest import rank_file_name
from qvl_core.weights.safetensors_header import read_header


def assemble(tensor):
    found = np.concatenate(list(blocks(tensor)))
    return found.reshape(tensor.parameter.shape)


@pytest.mark.parametrize("block_bytes", [1, 200, 8 * 1024**2])
def test_every_layout_gives_the_whole_tensors(make, layout, monkeypatch, block_bytes):
    monkeypatch.setattr(whole_tensors, "BLOCK_BYTES", block_bytes)
    found = open_whole_tensors(make.sharded("sharded", layout))
    assert set(found.tensors) == set(make.arrays)
    for name, array in make.arrays.items():
        assert np.array_equal(assemble(found.tensors[name]), array), name
        limit = max(block_bytes, array.nbytes // array.shape[0])
        assert all(block.nbytes <= limit for block in blocks(found.tensors[name]))


@pytest.mark.parametrize("naming", ["classic", "new"])
def test_hf_folders_give_the_whole_tensors(make, naming):
    found = open_whole_tensors(make.hf("hf", naming=naming, max_shard_bytes=20_000))
    assert found.size == sum(array.nbytes for array in make.arrays.values())
    assert all(np.array_equal(assemble(found.tensors[name]), array) for name, array in make.arrays.items())


def flip(folder, name, tensor):
    file = folder / name
    entry = read_header(file).tensors[tensor]
    content = bytearray(file.read_bytes())
    content[entry.start + 3] ^= 1
    file.write_bytes(content)


def test_a_flipped_bit_is_found_with_file_and_tensor(make, layout):
    path = make.sharded("sharded", layout)
    stage = next(stage for stage, count in enumerate(layout.text_stages) if count)
    name, tensor = rank_file_name(stage, layout.tp - 1), "model.layers.0.mlp.down_proj.weight"
    flip(path, name, tensor)
    found = open_whole_tensors(path)
    with pytest.raises(WeightsError, match=f"{name}: {tensor}\n  is damaged"):
        list(blocks(found.tensors[tensor]))
    list(blocks(found.tensors["model.layers.1.mlp.down_proj.weight"]))


@pytest.mark.parametrize(
    "layout",
    [
        Layout(vision_stages=(2,), text_stages=(3,), tp=2),
        Layout(vision_stages=(1, 1, 0), text_stages=(0, 1, 2), pp=3, tp=4),
    ],
    ids=["one stage", "three stages"],
)
def test_copies_that_differ_are_found(make, layout):
    path = make.sharded("sharded", layout)
    flip(path, rank_file_name(layout.pp - 1, 1), "model.norm.weight")
    with pytest.raises(WeightsError, match=r"differs from the copy in rank-pp00.-tt000.*byte 3 of"):
        open_whole_tensors(path)


def test_a_file_that_shrinks_is_an_error(make):
    path = make.hf("hf")
    found = open_whole_tensors(path)
    with (path / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(RunError, match="changed while it was read"):
        list(blocks(found.tensors["model.norm.weight"]))


def test_an_incomplete_folder_is_refused(make):
    path = make.hf("hf")
    (path / "config.json").write_text((path / "config.json").read_text().replace('"depth": 2', '"depth": 3'))
    with pytest.raises(WeightsError, match="tensors are missing"):
        open_whole_tensors(path)


@pytest.mark.parametrize("make", [True], indirect=True, ids=["tied"])
def test_tied_copies_that_differ_are_found(make):
    layout = Layout(vision_stages=(2, 0), text_stages=(1, 2), pp=2)
    path = make.sharded("sharded", layout)
    flip(path, rank_file_name(1, 0), "model.embed_tokens.weight")
    with pytest.raises(WeightsError, match=r"embed_tokens\.weight\n  differs from the copy in rank-pp000-tt000"):
        open_whole_tensors(path)
