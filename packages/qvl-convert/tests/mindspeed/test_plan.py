"""Writing the reference stack's folders: round trips to the bit, and files that others accept."""

import shutil
import subprocess
import zipfile

import pytest
from qvl_convert.mindspeed.plan import plan_mindspeed
from qvl_convert.mindspeed.source import open_mindspeed
from qvl_convert.plan_sharded import plan_sharded
from qvl_core.errors import RecipeError, WeightsError
from qvl_core.layout import Layout
from qvl_core.weights.whole_tensors import open_whole_tensors

PAIR = Layout(vision_stages=(3,), text_stages=(5,), tp=2)


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_hf_to_the_reference_and_back_is_exact(model, cut, carry_out, tmp_path):
    out = tmp_path / "mm"
    carry_out(plan_mindspeed(open_whole_tensors(model.hf()), cut), out)
    source = open_mindspeed(out, model.spec)
    model.assert_equal(source)
    assert source.layout == cut


def test_writes_byte_for_byte_what_an_independent_model_says(model, cut, carry_out, tmp_path):
    carry_out(plan_mindspeed(open_whole_tensors(model.hf()), cut), tmp_path / "ours")
    theirs = model.mindspeed("theirs", layout=cut)
    assert files_of(tmp_path / "ours") == files_of(theirs)
    for name in files_of(theirs):
        if name.endswith(".pt"):
            with zipfile.ZipFile(tmp_path / "ours" / name) as one, zipfile.ZipFile(theirs / name) as other:
                found = [
                    sorted(file.read(info) for info in file.infolist() if "/data/" in info.filename)
                    for file in (one, other)
                ]
            assert found[0] == found[1]
        else:
            assert (tmp_path / "ours" / name).read_bytes() == (theirs / name).read_bytes()


@pytest.mark.parametrize("dtype", ["F16", "F32", "mixed"])
def test_keeps_every_dtype(new_model, dtype, carry_out, tmp_path):
    model = new_model(tied=False, dtype=dtype)
    carry_out(plan_mindspeed(open_whole_tensors(model.hf()), PAIR), tmp_path / "mm")
    model.assert_equal(open_mindspeed(tmp_path / "mm", model.spec))


def test_a_sharded_folder_and_one_of_the_reference_are_sources_as_well(model, cut, carry_out, tmp_path):
    whole = open_whole_tensors(model.hf())
    carry_out(plan_sharded(whole, PAIR, kind="import", source_revision=""), tmp_path / "sharded")
    carry_out(plan_mindspeed(open_whole_tensors(tmp_path / "sharded"), cut), tmp_path / "mm")
    carry_out(plan_mindspeed(open_mindspeed(tmp_path / "mm", model.spec), PAIR), tmp_path / "again")
    model.assert_equal(open_mindspeed(tmp_path / "again", model.spec))


def test_names_files_as_the_reference_does(model, carry_out, tmp_path):
    layout = Layout(vision_stages=(3, 0), text_stages=(1, 4), pp=2, tp=2)
    carry_out(plan_mindspeed(open_whole_tensors(model.hf()), layout), tmp_path / "mm")
    assert files_of(tmp_path / "mm") == [
        "latest_checkpointed_iteration.txt",
        *(f"release/mp_rank_{tp:02d}_{pp:03d}/model_optim_rng.pt" for tp in range(2) for pp in range(2)),
    ]
    assert (tmp_path / "mm" / "latest_checkpointed_iteration.txt").read_bytes() == b"release"


def test_the_archive_is_laid_out_as_torch_does(untied, carry_out, tmp_path):
    carry_out(plan_mindspeed(open_whole_tensors(untied.hf()), PAIR), tmp_path / "mm")
    path = tmp_path / "mm" / "release" / "mp_rank_01" / "model_optim_rng.pt"
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        names = [info.filename for info in file.infolist()]
    assert names[:3] == ["model_optim_rng/data.pkl", "model_optim_rng/byteorder", "model_optim_rng/data/0"]
    assert names[-1] == "model_optim_rng/version"
    from qvl_convert.mindspeed.torch_archive import open_archive

    assert all(entry.start % 64 == 0 for entry in open_archive(path).entries.values())


@pytest.mark.skipif(shutil.which("unzip") is None, reason="unzip is not installed")
def test_unzip_finds_every_checksum_right(untied, carry_out, tmp_path):
    carry_out(plan_mindspeed(open_whole_tensors(untied.hf()), PAIR), tmp_path / "mm")
    path = tmp_path / "mm" / "release" / "mp_rank_00" / "model_optim_rng.pt"
    done = subprocess.run(["unzip", "-tq", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_second_run_writes_the_same_bytes(model, cut, carry_out, tmp_path):
    job = plan_mindspeed(open_whole_tensors(model.hf()), cut)
    carry_out(job, tmp_path / "one")
    carry_out(job, tmp_path / "two")
    for name in files_of(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_finds_a_damaged_shard_by_its_checksum(untied, carry_out, tmp_path):
    carry_out(
        plan_sharded(open_whole_tensors(untied.hf()), PAIR, kind="import", source_revision=""), tmp_path / "sharded"
    )
    source = open_whole_tensors(tmp_path / "sharded")
    for name in (
        "visual.blocks.1.attn.qkv.weight",
        "model.layers.2.self_attn.k_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
        "model.norm.weight",
    ):
        part = source.tensors[name].parts[-1]
        data = bytearray(part.file.read_bytes())
        data[part.stop - 1] ^= 1
        part.file.write_bytes(data)
        with pytest.raises(WeightsError, match="is damaged") as error:
            carry_out(plan_mindspeed(open_whole_tensors(tmp_path / "sharded"), PAIR), tmp_path / "mm")
        assert name in str(error.value)
        assert not (tmp_path / "mm").exists()
        data[part.stop - 1] ^= 1
        part.file.write_bytes(data)
    carry_out(plan_mindspeed(open_whole_tensors(tmp_path / "sharded"), PAIR), tmp_path / "mm")


def test_refuses_a_layout_that_is_not_legal(untied):
    source = open_whole_tensors(untied.hf())
    with pytest.raises(RecipeError, match="legal are 1, 2"):
        plan_mindspeed(source, Layout(vision_stages=(3,), text_stages=(5,), tp=4))
    with pytest.raises(RecipeError, match="adds up to 4"):
        plan_mindspeed(source, Layout(vision_stages=(3,), text_stages=(4,)))


def test_refuses_to_fuse_tensors_of_different_dtypes(untied):
    untied.kinds["model.layers.1.self_attn.k_proj.weight"] = "F16"
    with pytest.raises(WeightsError) as error:
        plan_mindspeed(open_whole_tensors(untied.hf()), PAIR)
    assert "F16 in model.layers.1.self_attn.k_proj.weight" in str(error.value)
    assert "text_decoder.decoder.layers.1.self_attention.linear_qkv.weight" in str(error.value)
