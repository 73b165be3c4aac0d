"""Reading folders of the reference stack, made here without our own writer."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from qvl_convert.mindspeed.folder import open_mindspeed_folder
from qvl_convert.mindspeed.source import open_mindspeed
from qvl_convert.mindspeed.torch_archive import open_archive
from qvl_convert.mindspeed.unpickler import unpickle
from qvl_core.errors import WeightsError
from qvl_core.layout import Layout

PAIR = Layout(vision_stages=(3,), text_stages=(5,), tp=2)
STAGES = Layout(vision_stages=(3, 0), text_stages=(1, 4), pp=2)
QKV = "text_decoder.decoder.layers.0.self_attention.linear_qkv.weight"
NORM = "text_decoder.decoder.layers.0.input_layernorm.weight"


def refusal(path, spec):
    with pytest.raises(WeightsError) as error:
        open_mindspeed(path, spec)
    return str(error.value)


def test_reads_every_layout_to_the_bit(model, cut):
    source = open_mindspeed(model.mindspeed(layout=cut), model.spec)
    model.assert_equal(source)
    assert source.layout == cut
    assert source.kind == "mindspeed"


@pytest.mark.parametrize("dtype", ["F16", "F32", "mixed"])
def test_reads_every_dtype_to_the_bit(new_model, dtype):
    model = new_model(tied=False, dtype=dtype)
    model.assert_equal(open_mindspeed(model.mindspeed(layout=PAIR), model.spec))


def test_reads_what_msadapter_writes(model):
    model.assert_equal(open_mindspeed(model.mindspeed(layout=STAGES, flavour="msadapter"), model.spec))


def test_reads_a_training_checkpoint_and_leaves_out_what_is_no_weight(untied, named):
    args = named.Object(named.Name("argparse", "Namespace"), {"lr": 1e-5, "dtype": named.Name("torch", "bfloat16")})

    def change(stage, rank, tensors):
        return {**tensors, "text_decoder.output_layer._extra_state": None}

    more = {"args": args, "iteration": 5000, "checkpoint_version": 3.0, "rng_state": [{"x": (1, (2, 3), None)}]}
    folder = untied.mindspeed(layout=PAIR, iteration="5000", change=change, more=more)
    (folder / "iter_0005000" / "mp_rank_00" / "distrib_optim.pt").write_bytes(b"not looked at")
    untied.assert_equal(open_mindspeed(folder, untied.spec))
    assert open_mindspeed_folder(folder).left_out == ("mp_rank_00/distrib_optim.pt",)


def test_reads_the_folder_of_one_iteration(untied):
    folder = untied.mindspeed(layout=PAIR)
    untied.assert_equal(open_mindspeed(folder / "release", untied.spec))


def test_reads_one_stage_whose_folder_names_state_it(untied):
    folder = untied.mindspeed()
    (folder / "release" / "mp_rank_00").rename(folder / "release" / "mp_rank_00_000")
    untied.assert_equal(open_mindspeed(folder, untied.spec))


def test_reads_virtual_stages_chunk_by_chunk(model, write_checkpoint):
    # Two stages of two chunks: layers go to (chunk, stage) in the order (0,0) (0,1) (1,0) (1,1).
    vision, text = (2, 1, 0, 0), (0, 2, 1, 2)
    for stage in range(2):
        state = {}
        for chunk in range(2):
            flat = chunk * 2 + stage
            ranges = [(sum(counts[:flat]), sum(counts[: flat + 1])) for counts in (vision, text)]
            arrays = model.stage(*ranges, tied_copy=model.spec.text.tie_word_embeddings)
            state[f"model{chunk}"] = {key: model.tensor(key, array) for key, array in arrays.items()}
        state["checkpoint_version"] = 3.0
        write_checkpoint(model.root / "mm" / "release" / f"mp_rank_00_{stage:03d}" / "model_optim_rng.pt", state)
    (model.root / "mm" / "latest_checkpointed_iteration.txt").write_text("release")
    source = open_mindspeed(model.root / "mm", model.spec)
    model.assert_equal(source)
    assert source.layout is None


def slices_of_wholes(model):
    """What mm-convert writes for tensors that it cuts by columns: slices, whose whole goes into every file."""
    columns = ("linear_proj.weight", "linear_fc2.weight")

    def change(stage, rank, tensors):
        wholes = model.stage((0, 3), (0, 5), tied_copy=False)
        for key in tensors:
            if key.endswith(columns):
                whole, array = wholes[key], tensors[key].array
                tensors[key] = model.tensor(key, array, (whole, rank * array.shape[1], (whole.shape[1], 1)))
        return tensors

    return change


def test_reads_slices_by_columns_that_were_saved_with_their_whole(model):
    source = open_mindspeed(model.mindspeed(layout=PAIR, change=slices_of_wholes(model)), model.spec)
    model.assert_equal(source)


def test_refuses_slices_whose_wholes_differ(untied):
    def change(stage, rank, tensors):
        tensors = slices_of_wholes(untied)(stage, rank, tensors)
        if rank == 1:
            key = "text_decoder.decoder.layers.4.mlp.linear_fc2.weight"
            whole = tensors[key].whole
            array = whole[0].copy()
            array[3, 7] ^= 1
            tensors[key] = untied.tensor(key, tensors[key].array, (array, *whole[1:]))
        return tensors

    text = refusal(untied.mindspeed(layout=PAIR, change=change), untied.spec)
    assert "mp_rank_01" in text
    assert "layers.4.mlp.linear_fc2.weight" in text
    assert "[3, 7]" in text


def test_refuses_a_transposed_tensor(untied):
    def change(stage, rank, tensors):
        key = "image_encoder.encoder.blocks.layers.1.self_attention.linear_proj.weight"
        tensors[key] = untied.tensor(key, tensors[key].array, (tensors[key].array, 0, (1, 16)))
        return tensors

    text = refusal(untied.mindspeed(change=change), untied.spec)
    assert "is a view with strides [1, 16]" in text
    assert ".contiguous()" in text


def test_tensors_that_share_a_storage_are_read(untied):
    def change(stage, rank, tensors):
        both = np.concatenate(
            [tensors[f"text_decoder.decoder.layers.{i}.input_layernorm.weight"].array for i in (0, 1)]
        )
        for i in (0, 1):
            key = f"text_decoder.decoder.layers.{i}.input_layernorm.weight"
            tensors[key] = untied.tensor(key, tensors[key].array, (both, i * 48, (1,)))
        return tensors

    untied.assert_equal(open_mindspeed(untied.mindspeed(change=change), untied.spec))


def test_refuses_tied_copies_that_differ_and_names_the_place(tied):
    def change(stage, rank, tensors):
        if stage == 1:
            array = tensors["text_decoder.output_layer.weight"].array.copy()
            array[30, 4] ^= 0x8000
            tensors["text_decoder.output_layer.weight"] = tied.tensor("text_", array)
        return tensors

    text = refusal(tied.mindspeed(layout=STAGES, change=change), tied.spec)
    assert "text_decoder.output_layer.weight" in text
    assert "word_embeddings.weight" in text
    assert "[30, 4]" in text


def test_a_tied_model_may_lack_the_copy(tied):
    def change(stage, rank, tensors):
        tensors.pop("text_decoder.output_layer.weight", None)
        return tensors

    tied.assert_equal(open_mindspeed(tied.mindspeed(layout=STAGES, change=change), tied.spec))


def test_refuses_replicated_tensors_that_differ(untied):
    def change(stage, rank, tensors):
        if rank == 1:
            array = tensors[NORM].array.copy()
            array[5] ^= 1
            tensors[NORM] = untied.tensor("text_", array)
        return tensors

    text = refusal(untied.mindspeed(layout=PAIR, change=change), untied.spec)
    assert NORM in text
    assert "mp_rank_01" in text
    assert "[5]" in text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda tensors, new: tensors.pop(QKV), "is missing; its shape is [40, 48]"),
        (lambda tensors, new: tensors.update(extra=tensors[NORM]), "extra\n  is not a tensor of this stage"),
        (
            lambda tensors, new: tensors.update({NORM: new(np.zeros(47, np.uint16))}),
            "has shape [47], rank 0 of 2 holds [48]",
        ),
        (lambda tensors, new: tensors.update({NORM: new(np.zeros(48, np.int64), "I64")}), "is I64; weights are"),
        (lambda tensors, new: tensors.update({NORM: 3.5}), "is not a tensor but a value of type float"),
        (lambda tensors, new: tensors.update({QKV: new(tensors[QKV].array, "F16")}), "has several dtypes"),
    ],
    ids=["missing", "extra", "shape", "integers", "number", "dtypes"],
)
def test_refuses_a_file_that_is_not_this_model(untied, named, change, expected):
    def one_rank(stage, rank, tensors):
        if rank == 0:
            change(tensors, lambda array, dtype="BF16": named.Tensor(array, dtype))
        return tensors

    text = refusal(untied.mindspeed(layout=PAIR, change=one_rank), untied.spec)
    assert expected in text
    assert "mp_rank_00" in text


def test_refuses_another_depth(untied):
    folder = untied.mindspeed(layout=STAGES)
    deeper = replace(untied.spec, text=replace(untied.spec.text, num_layers=6))
    assert "holds 5 text layers, on its stages [1, 4]; qwen2.5-vl-custom has 6" in refusal(folder, deeper)


def latest(root):
    return root / "latest_checkpointed_iteration.txt"


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda root: (root / "release" / "mp_rank_01").rename(root / "release" / "mp_rank_02"), "lacks 1 of the 3"),
        (lambda root: (root / "release" / "mp_rank_01" / "model_optim_rng.pt").unlink(), "mp_rank_01/model_optim_rng"),
        (lambda root: (root / "release").rename(root / "other"), "names release, which is not there"),
        (lambda root: latest(root).write_text("../../x"), "not release or a step"),
        (lambda root: latest(root).write_text("7"), "names iter_0000007"),
        (lambda root: latest(root).unlink(), "holds neither"),
        (lambda root: latest(root).write_bytes(b"1" * 200), "is larger than the 100 bytes"),
        (lambda root: (root / "release" / "mp_rank_00_001").mkdir(), "as well as mp_rank_TT_PPP"),
        (lambda root: (root / "release" / "mp_rank_00_000_001").mkdir(), "expert parallel"),
        (lambda root: shutil.rmtree(root / "release") or (root / "release").mkdir(), "holds no folder mp_rank"),
    ],
    ids=["folder", "file", "iteration", "name", "step", "latest", "long", "forms", "experts", "empty"],
)
def test_refuses_an_incomplete_folder(untied, damage, expected):
    root = untied.mindspeed(layout=PAIR)
    damage(root)
    assert expected in refusal(root, untied.spec)


def test_a_missing_last_rank_is_found_by_its_shapes(untied):
    root = untied.mindspeed(layout=PAIR)
    shutil.rmtree(root / "release" / "mp_rank_01")
    assert "rank 0 of 1 holds" in refusal(root, untied.spec)


def test_refuses_a_path_that_is_no_folder(untied, tmp_path):
    assert "there is no such folder" in refusal(tmp_path / "absent", untied.spec)
    (tmp_path / "file").write_text("")
    assert "is not a folder" in refusal(tmp_path / "file", untied.spec)


def test_a_file_that_torch_wrote_is_read_without_torch():
    path = Path(__file__).parent / "data" / "saved_by_torch_2.13.archive"
    archive = open_archive(path)
    state = unpickle(archive.pickle, path)
    assert set(state) == {"args", "model", "checkpoint_version", "iteration", "rng_state"}
    assert (state["checkpoint_version"], state["iteration"]) == (3.0, 7)
    found = {}
    for key, tensor in state["model"].items():
        if tensor is not None:
            entry = archive.entries[f"data/{tensor.storage.key}"]
            found[key] = (tensor.storage.dtype, tensor.shape, tensor.strides, tensor.offset)
            width = {"BF16": 2, "F16": 2, "F32": 4}[tensor.storage.dtype]
            assert entry.size == tensor.storage.count * width
    assert found == {
        "half": ("F16", (3,), (1,), 0),
        "brain": ("BF16", (2, 2), (2, 1), 0),
        "columns": ("F32", (4, 3), (6, 1), 3),
        "rows": ("F32", (2, 6), (6, 1), 12),
        "parameter": ("BF16", (2,), (1,), 0),
        "five": ("F32", (1, 2, 1, 2, 1), (4, 2, 2, 1, 1), 0),
    }
    storage = archive.entries[f"data/{state['model']['rows'].storage.key}"]
    data = path.read_bytes()[storage.start : storage.stop]
    assert np.array_equal(np.frombuffer(data, np.float32), np.arange(24))
