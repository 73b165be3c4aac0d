"""Optimizer state in a sharded folder: its files and its table of the manifest, for every layout, read strictly."""

import json

import numpy as np
import pytest
from qvl_core.errors import WeightsError
from qvl_core.layout import Layout
from qvl_core.weights.manifest import MANIFEST_NAME, rank_file_name
from qvl_core.weights.manifest_reader import read_manifest
from qvl_core.weights.optimizer_state import OPTIMIZER_KINDS, optimizer_file_name, split_name, state_name
from qvl_core.weights.safetensors_header import read_header
from qvl_core.weights.sharded_folder import open_sharded_folder, verify_checksums

NORM = "model.norm.weight"
FIRST = optimizer_file_name(0, 0)
LAYOUTS = [
    Layout(vision_stages=(4,), text_stages=(4,)),
    Layout(vision_stages=(4,), text_stages=(4,), tp=2),
    Layout(vision_stages=(2, 2, 0), text_stages=(0, 1, 3), pp=3, tp=2),
]


@pytest.fixture
def moments(arrays):
    """Give whole arrays of both moments of the text model; vision and merger are frozen and have none."""
    return {
        state_name(name, kind): array * scale
        for name, array in arrays.items()
        if not name.startswith("visual.")
        for kind, scale in (("moment1", np.float32(0.5)), ("moment2", np.float32(0.25)))
    }


def refused(folder) -> str:
    with pytest.raises(WeightsError) as caught:
        open_sharded_folder(folder)
    return str(caught.value)


def edit(folder, change):
    path = folder / MANIFEST_NAME
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_names_are_taken_apart_and_put_together():
    assert split_name(state_name(NORM, "moment1")) == (NORM, "moment1")
    assert split_name("nothing") == ("", "nothing")
    assert optimizer_file_name(12, 3) == "optimizer-pp012-tt003.safetensors"
    assert OPTIMIZER_KINDS == ("moment1", "moment2", "master")


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_state_opens_with_every_layout_and_is_cut_like_its_parameter(make_sharded, moments, layout):
    path = make_sharded(layout, optimizer=moments)
    folder = open_sharded_folder(path)
    assert folder.manifest.has_optimizer
    assert set(folder.manifest.optimizer) == set(moments)
    assert set(folder.optimizer) == set(folder.ranks)
    for rank, entries in folder.optimizer.items():
        verify_checksums(folder, *rank)
        shapes = {name: entry.shape for name, entry in folder.ranks[rank].items()}
        assert all(entry.shape == shapes[split_name(name)[0]] for name, entry in entries.items())
    names = {name for entries in folder.optimizer.values() for name in entries}
    assert names == set(moments)


def test_a_rank_whose_parameters_are_all_frozen_has_a_file_without_tensors(make_sharded, moments):
    folder = open_sharded_folder(make_sharded(LAYOUTS[2], optimizer=moments))
    assert folder.optimizer[0, 0] == {}
    assert folder.optimizer[2, 1] != {}
    assert all(record.size < 100 for name, record in folder.manifest.files.items() if name == FIRST)


def test_everything_may_be_frozen(make_sharded):
    folder = open_sharded_folder(make_sharded(LAYOUTS[1], optimizer={}))
    assert folder.manifest.has_optimizer
    assert folder.optimizer == {(0, 0): {}, (0, 1): {}}


@pytest.mark.parametrize("header", [b"{}", b"{}      ", b'{"__metadata__":{}}'])
def test_a_file_may_hold_no_tensor(tmp_path, header):
    file = tmp_path / "empty.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    assert read_header(file).tensors == {}
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(WeightsError, match="1 bytes after the last tensor"):
        read_header(file)


def test_without_optimizer_files_there_is_no_table(make_sharded):
    path = make_sharded()
    assert "optimizer" not in json.loads((path / MANIFEST_NAME).read_text())
    folder = open_sharded_folder(path)
    assert not folder.manifest.has_optimizer
    assert folder.optimizer == {}


def test_the_manifest_comes_back_as_it_was_written(make_sharded, moments):
    value = json.loads((make_sharded(LAYOUTS[1], optimizer=moments) / MANIFEST_NAME).read_text())
    assert value["format_version"] == 1
    record = value["optimizer"][f"{NORM}.moment2"]
    assert (record["shape"], record["dtype"]) == ([64], "F32")
    assert set(record["parts"]) == {optimizer_file_name(0, 0), optimizer_file_name(0, 1)}
    assert value["files"][FIRST]["checksum"] is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda v: v.pop("optimizer"), f"optimizer\n  is missing, but {FIRST} is listed"),
        (lambda v: v.update(optimizer=None), "optimizer\n  has to be an object"),
        (lambda v: v["optimizer"].update({f"{NORM}.moment3": v["optimizer"][f"{NORM}.moment1"]}), "one of moment1"),
        (lambda v: v["optimizer"].update({"moment1": v["optimizer"][f"{NORM}.moment1"]}), "not part of the model"),
        (lambda v: v["optimizer"].update({"x.moment1": v["optimizer"][f"{NORM}.moment1"]}), "belongs to x, which"),
        (lambda v: v["optimizer"][f"{NORM}.moment1"].update(shape=[63]), "has shape [63], the spec gives [64]"),
        (lambda v: v["optimizer"][f"{NORM}.moment1"].update(dtype="I8"), "has dtype 'I8'"),
        (lambda v: v["optimizer"][f"{NORM}.moment1"].update(dtype="BF16"), f"{NORM}.moment1\n  is F32, the manifest"),
        (lambda v: v["optimizer"][f"{NORM}.moment1"]["parts"].pop(FIRST), "moment1.parts\n  have to be the files opt"),
        (lambda v: v["optimizer"][f"{NORM}.moment1"]["parts"].update({FIRST: "x"}), "moment1\n  has a checksum that"),
        (
            lambda v: v["optimizer"][f"{NORM}.moment1"].update(parts=v["tensors"][NORM]["parts"]),
            "moment1.parts\n  have to be the files opt",
        ),
        (lambda v: v["optimizer"].pop(f"{NORM}.moment1"), f"{NORM}.moment1\n  does not belong into this rank's file"),
        (
            lambda v: v["optimizer"].update({f"{NORM}.master": v["optimizer"][f"{NORM}.moment1"]}),
            f"{NORM}.master\n  is missing from this rank's file",
        ),
        (lambda v: v["files"].pop(FIRST), f"files.{FIRST}\n  is missing"),
        (lambda v: v["files"].update({optimizer_file_name(1, 0): v["files"][FIRST]}), "layout does not have"),
        (lambda v: v["files"].update({rank_file_name(1, 0): v["files"][FIRST]}), "layout does not have"),
        (lambda v: v["files"][FIRST].update(size=1), f"{FIRST}\n  has"),
    ],
)
def test_a_damaged_table_is_refused_by_key(make_sharded, moments, change, told):
    folder = make_sharded(LAYOUTS[1], optimizer=moments)
    edit(folder, change)
    assert told in refused(folder)


def test_a_missing_or_truncated_file_is_refused_by_name(make_sharded, moments):
    path = make_sharded(LAYOUTS[1], optimizer=moments)
    file = path / optimizer_file_name(0, 1)
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    assert file.name in refused(path)
    file.unlink()
    assert f"{file.name}\n  is listed in the manifest and not there" in refused(path)
    file.write_bytes(content)
    open_sharded_folder(path)


def test_a_file_of_another_rank_or_checkpoint_is_refused(make_sharded, moments):
    path = make_sharded(LAYOUTS[1], optimizer=moments)
    other = make_sharded(LAYOUTS[1], "other", optimizer={name: array + 1 for name, array in moments.items()})
    foreign = other / FIRST
    (path / FIRST).write_bytes(foreign.read_bytes())
    folder = open_sharded_folder(path)
    verify_checksums(folder, 0, 1)
    with pytest.raises(WeightsError, match=f"{FIRST}: model.*moment1\n  is damaged"):
        verify_checksums(folder, 0, 0)
    edit(path, lambda value: value["files"][FIRST].update(size=(path / rank_file_name(0, 0)).stat().st_size))
    (path / FIRST).write_bytes((path / rank_file_name(0, 0)).read_bytes())
    assert "is missing from this rank's file" in refused(path)


def test_a_flipped_bit_is_found_with_file_and_tensor(make_sharded, moments):
    path = make_sharded(LAYOUTS[2], optimizer=moments)
    file, name = path / optimizer_file_name(2, 1), "model.layers.2.mlp.down_proj.weight.moment2"
    content = bytearray(file.read_bytes())
    content[read_header(file).tensors[name].start + 5] ^= 8
    file.write_bytes(content)
    folder = open_sharded_folder(path)
    verify_checksums(folder, 2, 0)
    with pytest.raises(WeightsError) as caught:
        verify_checksums(folder, 2, 1)
    (problem,) = caught.value.problems
    assert (problem.where, problem.key) == (str(file), name)


def test_a_folder_with_state_reads_back_equal(make_sharded, moments):
    path = make_sharded(LAYOUTS[2], optimizer=moments)
    manifest = read_manifest(path)
    assert {name: record.shape for name, record in manifest.optimizer.items()} == {
        name: array.shape for name, array in moments.items()
    }
