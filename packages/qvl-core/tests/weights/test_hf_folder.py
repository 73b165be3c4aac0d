"""Opening HF folders: one file or shards, either spelling, and everything that can be wrong with them."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from qvl_core.errors import WeightsError
from qvl_core.params import EMBEDDING, LM_HEAD
from qvl_core.weights.hf_folder import check_tensors, open_hf_folder, require_tensors
from qvl_core.weights.hf_writer import INDEX_FILE, SINGLE_FILE
from qvl_core.weights.safetensors_writer import write_safetensors
from qvl_core.weights.tensor_io import read_tensor, tensor_from_array

SMALL_SHARDS = 300_000


def refused(path) -> str:
    with pytest.raises(WeightsError) as caught:
        open_hf_folder(path)
    return str(caught.value)


@pytest.mark.parametrize("naming", ["classic", "new"])
@pytest.mark.parametrize("shard_bytes", [2**30, SMALL_SHARDS])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_opens_every_published_form(make_hf, spec, arrays, naming, shard_bytes, dtype):
    path = make_hf(naming=naming, max_shard_bytes=shard_bytes, dtype=dtype)
    folder = open_hf_folder(path)
    assert (path / INDEX_FILE).exists() == (len(folder.headers) > 1) == (shard_bytes == SMALL_SHARDS)
    assert folder.spec == spec
    assert folder.naming == naming
    assert check_tensors(folder, spec) == ()
    require_tensors(folder, spec)
    assert {entry.dtype for entry in folder.tensors.values()} == {dtype}
    assert np.allclose(read_tensor(folder.tensors["model.norm.weight"]), arrays["model.norm.weight"], atol=0.02)


def test_accepts_mixed_dtypes_in_one_file(make_hf, spec, tmp_path, arrays):
    path = make_hf()
    kinds = ("F32", "F16", "BF16")
    tensors = [tensor_from_array(name, value, kinds[i % 3]) for i, (name, value) in enumerate(arrays.items())]
    (path / SINGLE_FILE).unlink()
    write_safetensors(path / SINGLE_FILE, tensors)
    assert check_tensors(open_hf_folder(path), spec) == ()


def test_opening_needs_no_numpy(make_hf):
    code = (
        "import sys; from qvl_core.weights.hf_folder import open_hf_folder; "
        f"open_hf_folder({str(make_hf())!r}); assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_tensors_are_listed_up_to_ten_with_the_count(make_hf, arrays, spec):
    gone = list(arrays)[:12]
    folder = open_hf_folder(make_hf(changes=dict.fromkeys(gone)))
    (problem,) = check_tensors(folder, spec)
    assert problem.message.startswith("12 tensors are missing:\nvisual.patch_embed.proj.weight [64, 3, 2, 14, 14]")
    assert problem.message.endswith("... and 2 more")
    with pytest.raises(WeightsError, match="12 tensors are missing"):
        require_tensors(folder, spec)


def test_extra_and_misshapen_tensors_are_named(make_hf, arrays, spec):
    name = "model.layers.0.mlp.up_proj.weight"
    changes = {"model.rotary_emb.inv_freq": np.zeros(8, np.float32), name: arrays[name].T.copy()}
    extra, shape = check_tensors(open_hf_folder(make_hf(changes=changes)), spec)
    assert "1 tensor is not part of the model:\nmodel.rotary_emb.inv_freq" in extra.message
    assert f"{name} has shape [64, 192], the model needs [192, 64]" in shape.message


def test_a_tensor_that_is_no_float_is_an_error(make_hf, arrays, spec, tmp_path):
    path = make_hf()
    tensors = [tensor_from_array(name, value) for name, value in arrays.items() if name != "model.norm.weight"]
    (path / SINGLE_FILE).unlink()
    write_safetensors(path / SINGLE_FILE, [*tensors, tensor_from_array("model.norm.weight", np.zeros(64, np.int8))])
    (problem,) = check_tensors(open_hf_folder(path), spec)
    assert "model.norm.weight is I8" in problem.message


def test_a_tied_head_may_be_there_if_it_is_the_embedding(make_hf, arrays, spec):
    assert check_tensors(open_hf_folder(make_hf(tied_copy=arrays[EMBEDDING])), spec) == ()


def test_a_tied_head_that_differs_is_an_error_with_its_first_place(make_hf, arrays, spec):
    head = arrays[EMBEDDING].copy()
    head[3, 5] += 1
    (problem,) = check_tensors(open_hf_folder(make_hf(tied_copy=head)), spec)
    assert problem.key == LM_HEAD
    assert "first difference is at [3, 5]" in problem.message
    (problem,) = check_tensors(open_hf_folder(make_hf("half", tied_copy=head[:100])), spec)
    assert "[100, 64] against F32 [512, 64]" in problem.message


def edit_index(path, change):
    index = json.loads((path / INDEX_FILE).read_text())
    change(index["weight_map"])
    (path / INDEX_FILE).write_text(json.dumps(index))


def shards(make_hf):
    return make_hf(max_shard_bytes=SMALL_SHARDS)


def test_names_a_missing_shard(make_hf):
    path = shards(make_hf)
    victim = sorted(path.glob("model-*"))[1]
    victim.unlink()
    assert victim.name in refused(path)


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/x.safetensors", "a\\b.safetensors", "", 3, None, ".x.safetensors", "x.bin"]
)
def test_refuses_an_index_that_leads_elsewhere_without_opening_it(make_hf, name):
    path = shards(make_hf)
    # A pipe would make an opening reader wait for ever.
    os.mkfifo(path.parent / "secret.safetensors")
    edit_index(path, lambda weight_map: weight_map.update({"model.norm.weight": name}))
    text = refused(path)
    assert "weight_map.model.norm.weight" in text
    assert "not the plain name" in text


def test_refuses_one_tensor_in_two_shards(make_hf):
    path = shards(make_hf)
    first, second, *_ = sorted(path.glob("model-*"))
    shutil.copy(first, second)
    assert "in two shards" in refused(path)


def test_refuses_an_index_that_disagrees_with_the_shards(make_hf):
    path = shards(make_hf)
    edit_index(path, lambda weight_map: weight_map.update({"ghost": next(iter(weight_map.values()))}))
    assert "ghost, listed in" in refused(path)
    edit_index(path, lambda weight_map: [weight_map.pop("ghost"), weight_map.pop("model.norm.weight")])
    assert "1 tensor of the shards" in refused(path) or "model.norm.weight in" in refused(path)


def test_refuses_a_tensor_listed_in_the_wrong_shard(make_hf):
    path = shards(make_hf)
    edit_index(path, lambda m: m.update({"model.norm.weight": min(m.values())}))
    assert "the index says" in refused(path)


@pytest.mark.parametrize("content", [b"{}", b'{"weight_map": []}', b'{"weight_map": {}}'])
def test_refuses_an_index_without_a_map(make_hf, content):
    path = shards(make_hf)
    (path / INDEX_FILE).write_bytes(content)
    assert "weight_map" in refused(path)


def test_refuses_both_spellings_of_one_tensor(make_hf, arrays):
    path = make_hf()
    (path / SINGLE_FILE).unlink()
    one = arrays["model.norm.weight"]
    names = ("model.norm.weight", "model.language_model.norm.weight")
    write_safetensors(path / SINGLE_FILE, [tensor_from_array(name, one) for name in names])
    assert "is the same tensor as" in refused(path)


def test_refuses_a_single_file_beside_an_index(make_hf):
    path = shards(make_hf)
    shutil.copy(sorted(path.glob("model-*"))[0], path / SINGLE_FILE)
    assert "holds both" in refused(path)


def test_says_what_is_there_instead_of_weights(tmp_path, make_hf, side_files):
    assert "no such folder" in refused(tmp_path / "absent")
    assert "is not a folder" in refused(side_files / "config.json")
    assert "holds neither" in refused(side_files)
    (side_files / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    assert "never loads" in refused(side_files)
    (side_files / "model-00001-of-00002.safetensors").write_bytes(b"")
    assert f"no {INDEX_FILE}" in refused(side_files)


@pytest.mark.parametrize("kind", ["pipe", "folder", "lfs", "cut"])
def test_refuses_a_weights_file_that_is_none(make_hf, kind):
    path = make_hf()
    file = path / SINGLE_FILE
    content = file.read_bytes()
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n" if kind == "lfs" else content[:-1])
    wanted = {"pipe": "named pipe", "folder": "a folder", "lfs": "git lfs", "cut": "truncated"}
    assert wanted[kind] in refused(path)
