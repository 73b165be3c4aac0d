"""Writing HF folders: complete, atomic, never over something that is there."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qvl_core.errors import OutputError
from qvl_core.weights.hf_folder import INDEX_FILE, SINGLE_FILE, open_hf_folder
from qvl_core.weights.hf_writer import (
    config_with_dtype,
    index_of,
    list_side_files,
    plan_shards,
    write_hf_folder,
)
from qvl_core.weights.tensor_io import read_raw, tensor_from_array


def test_the_usual_library_reads_the_shards(make_hf, arrays):
    library = pytest.importorskip("safetensors.numpy", reason="the comparison needs safetensors")
    path = make_hf(max_shard_bytes=300_000)
    index = json.loads((path / INDEX_FILE).read_text())
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in arrays.values())
    found = {}
    for name in sorted(set(index["weight_map"].values())):
        found.update(library.load_file(path / name))
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())


def test_shards_stay_below_the_limit_unless_one_tensor_is_larger(make_hf):
    limit = 100_000
    folder = open_hf_folder(make_hf(max_shard_bytes=limit))
    for header in folder.headers:
        size = sum(entry.size for entry in header.tensors.values())
        assert size <= limit or len(header.tensors) == 1


def test_bits_are_those_that_went_in(make_hf, arrays):
    folder = open_hf_folder(make_hf(naming="new", max_shard_bytes=300_000))
    assert all(read_raw(folder.tensors[name]).tobytes() == array.tobytes() for name, array in arrays.items())


def test_copies_everything_but_weights_code_and_hidden_files(side_files, tmp_path, arrays):
    kept = ("tokenizer.json", "preprocessor_config.json", "chat_template.jinja", "LICENSE", "README.md", "merges.txt")
    dropped = ("modeling_x.py", "a.safetensors", "pytorch_model.bin", INDEX_FILE, ".gitattributes", "manifest.json")
    for name in (*kept, *dropped, "optimizer-pp000-tt000.safetensors", "state.json"):
        (side_files / name).write_text(name)
    (side_files / "vocab.json").symlink_to(side_files / "merges.txt")
    (side_files / "folder").mkdir()
    (side_files / "dangling.json").symlink_to(side_files / "absent")
    write_hf_folder([tensor_from_array("a", np.zeros(1))], side_files, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {*kept, "config.json", "vocab.json", SINGLE_FILE}
    assert not (tmp_path / "out" / "vocab.json").is_symlink()
    assert {path.name for path in list_side_files(tmp_path / "out")} == names - {SINGLE_FILE}


def test_a_given_config_replaces_that_of_the_side_files(side_files, tmp_path):
    write_hf_folder([tensor_from_array("a", np.zeros(1))], side_files, tmp_path / "out", config={"a": "b"})
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"a": "b"}


def test_refuses_a_target_that_holds_something_and_accepts_an_empty_one(side_files, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    write_hf_folder([tensor_from_array("a", np.zeros(1))], side_files, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(OutputError, match="exists already"):
        write_hf_folder([tensor_from_array("a", np.ones(1))], side_files, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_failure_leaves_neither_target_nor_temporary_folder(side_files, tmp_path):
    def broken():
        raise RuntimeError("the source broke")
        yield b""

    tensor = tensor_from_array("a", np.zeros(1))
    bad = type(tensor)(name="b", dtype="F32", shape=(1,), chunks=broken)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="the source broke"):
        write_hf_folder([tensor, bad], side_files, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.integers(1, 60))
def test_shards_hold_every_tensor_once_in_order_within_the_limit(sizes, limit):
    named = [(f"t{i}", size) for i, size in enumerate(sizes)]
    shards = plan_shards(named, limit)
    assert [name for names in shards.values() for name in names] == [name for name, _ in named]
    by_name = dict(named)
    for names in shards.values():
        assert names
        assert sum(by_name[name] for name in names) <= limit or len([name for name in names if by_name[name]]) == 1
    if len(shards) > 1:
        wanted = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
        assert list(shards) == wanted
    else:
        assert list(shards) == [SINGLE_FILE]


def test_the_index_names_each_tensors_file_and_the_bytes_of_all():
    index = index_of({"a": ["x", "y"], "b": ["z"]}, 12)
    assert index == {"metadata": {"total_size": 12}, "weight_map": {"x": "a", "y": "a", "z": "b"}}


@pytest.mark.parametrize(("kind", "name"), [("BF16", "bfloat16"), ("F16", "float16"), ("F32", "float32")])
def test_a_config_states_the_dtype_of_the_weights_wherever_it_states_one(kind, name):
    config = {
        "torch_dtype": "x",
        "text_config": {"dtype": "x", "hidden_size": 3},
        "vision_config": {"torch_dtype": None, "depth": 2},
        "list": [{"dtype": "untouched"}],
    }
    assert config_with_dtype(config, kind) == {
        "torch_dtype": name,
        "text_config": {"dtype": name, "hidden_size": 3},
        "vision_config": {"torch_dtype": None, "depth": 2},
        "list": [{"dtype": "untouched"}],
    }
    assert config_with_dtype({"hidden_size": 3}, kind) == {"hidden_size": 3}
