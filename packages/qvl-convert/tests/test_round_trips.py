"""HF to any layout to any other and back: the same bits, and the same files however a layout was reached."""

import json
import random

import pytest
from qvl_convert.plan_hf import plan_hf
from qvl_convert.plan_sharded import plan_sharded
from qvl_convert.run_job import run_job
from qvl_core.errors import WeightsError
from qvl_core.layout import Layout
from qvl_core.layout_rules import check_layout
from qvl_core.params import EMBEDDING, LM_HEAD
from qvl_core.weights.fingerprint import fingerprint
from qvl_core.weights.hf_folder import open_hf_folder
from qvl_core.weights.manifest import rank_file_name
from qvl_core.weights.optimizer_state import optimizer_file_name
from qvl_core.weights.whole_tensors import open_whole_tensors


def legal_layouts(spec):
    def splits(total, pp):
        return [(total,)] if pp == 1 else [(n, *rest) for n in range(total + 1) for rest in splits(total - n, pp - 1)]

    return [
        layout
        for tp in (1, 2, 4)
        for pp in (1, 2, 3, 4, 5)
        for vision in splits(spec.vision.depth, pp)
        for text in splits(spec.text.num_layers, pp)
        if not check_layout(spec, layout := Layout(tp=tp, pp=pp, vision_stages=vision, text_stages=text))
    ]


def to_sharded(source, layout, out, kind="reshard"):
    found = open_whole_tensors(source)
    revision = found.source_revision or fingerprint(open_hf_folder(source))
    run_job(plan_sharded(found, layout, kind=kind, source_revision=revision), out, overwrite=False, advance=int)
    return out


def to_hf(source, out, naming="classic", limit=10**9):
    job = plan_hf(open_whole_tensors(source), source, kind="export", naming=naming, max_shard_bytes=limit)
    run_job(job, out, overwrite=False, advance=int)
    return out


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def bits_of(folder):
    """Read an HF folder without the code under test: names and bytes of its tensors."""
    found = {}
    for file in folder.glob("*.safetensors"):
        data = file.read_bytes()
        length = int.from_bytes(data[:8], "little")
        for name, fields in json.loads(data[8 : 8 + length]).items():
            if name != "__metadata__":
                start, stop = (8 + length + offset for offset in fields["data_offsets"])
                found[name] = (fields["dtype"], tuple(fields["shape"]), data[start:stop])
    return found


def classic_bits(make):
    return {name: (make.kinds[name], array.shape, array.tobytes()) for name, array in make.arrays.items()}


@pytest.mark.parametrize("seed", range(2))
def test_hf_to_a_to_b_to_hf_is_the_same_to_the_bit(make, tmp_path, seed):
    chosen = random.Random(seed)
    first, second = chosen.sample(legal_layouts(make.spec), 2)
    naming, limit = chosen.choice(["classic", "new"]), chosen.choice([5_000, 10**9])
    hf = make.hf("hf", naming=naming, max_shard_bytes=limit)
    one = to_sharded(hf, first, tmp_path / "one", "import")
    two = to_sharded(one, second, tmp_path / "two")
    back = to_hf(two, tmp_path / "back", naming, limit)
    assert content(back) == content(hf)
    other = "new" if naming == "classic" else "classic"
    assert bits_of(to_hf(one, tmp_path / "classic")) == classic_bits(make)
    assert set(bits_of(to_hf(two, tmp_path / "other", other))) != set(bits_of(hf))
    # However the second layout was reached, it is the same folder.
    assert content(to_sharded(hf, second, tmp_path / "direct", "import")) == content(two)
    assert content(to_sharded(two, first, tmp_path / "again")) == content(one)


def test_a_reshard_is_what_the_numpy_rules_cut(make, layout, tmp_path):
    """Compared with folders that the converter did not write."""
    origin = make.sharded("origin", Layout(vision_stages=(2, 0), text_stages=(1, 2), pp=2, tp=2))
    wanted = make.sharded("wanted", layout)
    assert content(to_sharded(origin, layout, tmp_path / "out")) == content(wanted)


@pytest.mark.parametrize("make", [True], indirect=True, ids=["tied"])
def test_a_redundant_head_of_a_tied_model_goes_and_the_rest_stays(make, tmp_path):
    make.kinds[LM_HEAD] = make.kinds[EMBEDDING]
    hf = make.hf("hf", changes={LM_HEAD: make.arrays[EMBEDDING]})
    layout = Layout(vision_stages=(2, 0), text_stages=(1, 2), pp=2, tp=2)
    sharded = to_sharded(hf, layout, tmp_path / "sharded", "import")
    assert LM_HEAD not in json.loads((sharded / "manifest.json").read_text())["tensors"]
    assert bits_of(to_hf(sharded, tmp_path / "back")) == classic_bits(make)


@pytest.mark.parametrize("make", [True], indirect=True, ids=["tied"])
def test_a_tied_model_whose_head_differs_is_refused(make):
    make.kinds[LM_HEAD] = make.kinds[EMBEDDING]
    changed = make.arrays[EMBEDDING].copy()
    changed[3, 4] ^= 1
    with pytest.raises(WeightsError, match=r"the first difference is at \[3, 4\]"):
        open_whole_tensors(make.hf("hf", changes={LM_HEAD: changed}))


@pytest.mark.parametrize("seed", range(2))
def test_a_checkpoint_goes_to_another_layout_and_back_byte_for_byte(make, tmp_path, seed):
    first, second = random.Random(seed + 10).sample(legal_layouts(make.spec), 2)
    origin = make.checkpoint("origin", first)
    there = to_sharded(origin, second, tmp_path / "there")
    found = open_whole_tensors(there)
    assert (found.kind, found.has_optimizer) == ("checkpoint", True)
    assert set(found.optimizer) == set(make.moments())
    assert {path.name for path in there.glob("optimizer-*")} == {
        optimizer_file_name(pp, tp) for pp in range(second.pp) for tp in range(second.tp)
    }
    assert (there / "state.json").read_bytes() == (origin / "state.json").read_bytes()
    assert content(there) == content(make.checkpoint("wanted", second))
    assert content(to_sharded(there, first, tmp_path / "back")) == content(origin)


def test_a_checkpoint_of_a_frozen_model_keeps_its_empty_optimizer_files(make, tmp_path):
    first = Layout(vision_stages=(2,), text_stages=(3,))
    second = Layout(vision_stages=(2, 0), text_stages=(1, 2), pp=2)
    origin = make.sharded("origin", first, optimizer={}, state="{}")
    there = to_sharded(origin, second, tmp_path / "there")
    assert json.loads((there / "manifest.json").read_text())["optimizer"] == {}
    assert open_whole_tensors(there).has_optimizer
    assert content(to_sharded(there, first, tmp_path / "back")) == content(origin)


def test_a_checkpoint_without_optimizer_state_stays_one(make, tmp_path):
    origin = make.sharded("origin", Layout(vision_stages=(2,), text_stages=(3,)), state='{"has_optimizer": false}')
    there = to_sharded(origin, Layout(vision_stages=(2,), text_stages=(3,), tp=2), tmp_path / "there")
    manifest = json.loads((there / "manifest.json").read_text())
    assert "optimizer" not in manifest
    assert manifest["files"]["state.json"]["size"] == len('{"has_optimizer": false}')
    assert open_whole_tensors(there).kind == "checkpoint"


def test_an_export_of_a_checkpoint_takes_weights_only(make, tmp_path):
    origin = make.checkpoint("origin", Layout(vision_stages=(2, 0), text_stages=(1, 2), pp=2))
    out = to_hf(origin, tmp_path / "out")
    assert {path.name for path in out.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors"}
    assert bits_of(out) == classic_bits(make)


def test_a_damaged_training_state_is_not_given_a_new_checksum(make, tmp_path):
    origin = make.checkpoint("origin", Layout(vision_stages=(2,), text_stages=(3,)))
    (origin / "state.json").write_text('{"step": 9}')
    with pytest.raises(WeightsError, match=r"state\.json\n  is damaged"):
        to_sharded(origin, Layout(vision_stages=(2,), text_stages=(3,), tp=2), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    to_hf(origin, tmp_path / "hf")


def test_all_tensors_of_one_dtype_are_said_in_manifest_and_config(make, tmp_path):
    layout = Layout(vision_stages=(2,), text_stages=(3,), tp=2)
    assert (
        json.loads((to_sharded(make.hf("mixed"), layout, tmp_path / "a") / "manifest.json").read_text())["dtype"]
        == "mixed"
    )
    make.kinds = dict.fromkeys(make.kinds, "F16")
    make.arrays = {name: array.astype("uint16") for name, array in make.arrays.items()}
    config = json.loads((make.side / "config.json").read_text())
    (make.side / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16"}))
    sharded = to_sharded(make.hf("halves"), layout, tmp_path / "b")
    assert json.loads((sharded / "manifest.json").read_text())["dtype"] == "F16"
    assert json.loads((to_hf(sharded, tmp_path / "c") / "config.json").read_text())["torch_dtype"] == "float16"


def test_more_files_than_threads_and_fewer(make, tmp_path, monkeypatch):
    layout = Layout(vision_stages=(1, 1, 0, 0, 0), text_stages=(0, 0, 1, 1, 1), pp=5, tp=4)
    hf = make.hf("hf")
    found = []
    for most in (1, 2, 16):
        monkeypatch.setattr("qvl_convert.run_job.MOST_THREADS", most)
        found.append(content(to_sharded(hf, layout, tmp_path / f"out-{most}", "import")))
    assert found[0] == found[1] == found[2]
    assert rank_file_name(4, 3) in found[0]
