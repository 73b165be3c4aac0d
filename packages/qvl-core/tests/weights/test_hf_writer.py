"""Writing HF folders: complete, atomic, never over something that is there."""

import json
import tracemalloc
import weakref
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qvl_core.errors import OutputError, WeightsError
from qvl_core.layout import Layout
from qvl_core.params import parameter_table
from qvl_core.weights import row_reader
from qvl_core.weights.hf_folder import INDEX_FILE, SINGLE_FILE, open_hf_folder
from qvl_core.weights.hf_writer import (
    config_with_dtype,
    index_of,
    list_side_files,
    plan_shards,
    write_hf_folder,
)
from qvl_core.weights.manifest import rank_file_name
from qvl_core.weights.row_reader import OpenFiles, tensor_to_write
from qvl_core.weights.safetensors_header import read_header
from qvl_core.weights.safetensors_writer import TensorToWrite
from qvl_core.weights.tensor_io import read_raw, tensor_from_array
from qvl_core.weights.whole_tensors import open_whole_tensors
from sharded_folders import divisible_spec, write_sharded


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


class _Loaded:
    """Arrays that are made when their bytes are asked for; `most` counts how many were alive together."""

    def __init__(self) -> None:
        self.alive, self.most = 0, 0

    def tensor(self, name, array, dtype="F32"):
        def chunks():
            loaded = array.copy()
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(loaded, self._forget)
            yield from tensor_from_array(name, loaded, dtype).chunks()

        return TensorToWrite(name=name, dtype=dtype, shape=array.shape, chunks=chunks)

    def _forget(self) -> None:
        self.alive -= 1


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_of_tensors_that_are_loaded_when_needed_one_is_alive(make_hf, arrays, side_files, tmp_path, dtype):
    whole, loaded = make_hf(dtype=dtype, max_shard_bytes=300_000), _Loaded()
    tensors = [loaded.tensor(*item, dtype) for item in arrays.items()]
    write_hf_folder(tensors, side_files, tmp_path / "lazy", max_shard_bytes=300_000)
    assert (loaded.most, loaded.alive) == (1, 0)
    assert contents(tmp_path / "lazy") == contents(whole)


CUT = Layout(tp=2, pp=2, vision_stages=(2, 0), text_stages=(1, 2))


@pytest.mark.parametrize("tied", [True, False])
def test_an_hf_folder_from_a_cut_one_is_that_of_the_arrays(side_files, tmp_path, tied):
    spec = divisible_spec(tied=tied)
    arrays = cut_folder(tmp_path / "cut", spec)
    write_hf_folder([tensor_from_array(*item) for item in arrays.items()], side_files, tmp_path / "wanted")
    source = open_whole_tensors(tmp_path / "cut")
    with OpenFiles(source.inputs) as files:
        tensors = [tensor_to_write(tensor, files) for tensor in source.tensors.values()]
        write_hf_folder(tensors, side_files, tmp_path / "found")
    assert contents(tmp_path / "found") == contents(tmp_path / "wanted")


def test_of_a_cut_folder_a_few_blocks_are_in_memory(side_files, tmp_path):
    spec = divisible_spec(tied=True)
    spec = replace(spec, text=replace(spec.text, vocab_size=200_000))
    cut_folder(tmp_path / "cut", spec)
    source = open_whole_tensors(tmp_path / "cut")
    tracemalloc.start()
    with OpenFiles(source.inputs) as files:
        write_hf_folder(
            [tensor_to_write(tensor, files) for tensor in source.tensors.values()], side_files, tmp_path / "hf"
        )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * row_reader.BLOCK_BYTES < max(tensor.size for tensor in source.tensors.values())


@pytest.mark.parametrize(
    ("tensor", "home"), [("model.norm.weight", (1, 1)), ("model.layers.0.mlp.up_proj.weight", (0, 1))]
)
def test_a_damaged_part_or_copy_leaves_no_hf_folder(side_files, tmp_path, tensor, home):
    cut_folder(tmp_path / "cut", divisible_spec(tied=True))
    damaged = tmp_path / "cut" / rank_file_name(*home)
    content = bytearray(damaged.read_bytes())
    content[read_header(damaged).tensors[tensor].start] ^= 1
    damaged.write_bytes(content)
    source = open_whole_tensors(tmp_path / "cut")
    before = sorted(tmp_path.iterdir())
    with OpenFiles(source.inputs) as files, pytest.raises(WeightsError, match="is damaged") as caught:
        write_hf_folder([tensor_to_write(one, files) for one in source.tensors.values()], side_files, tmp_path / "hf")
    assert [(problem.where, problem.key) for problem in caught.value.problems] == [(str(damaged), tensor)]
    assert sorted(tmp_path.iterdir()) == before


def cut_folder(path, spec):
    """Write a sharded folder of zeros and ones, and give its arrays."""
    arrays = {row.name: np.zeros(row.shape, np.float32) for row in parameter_table(spec)}
    for i, array in enumerate(arrays.values()):
        array.reshape(-1)[i % array.size :: 3] = 1
    path.mkdir()
    write_sharded(path, spec, CUT, arrays)
    return arrays


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


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
