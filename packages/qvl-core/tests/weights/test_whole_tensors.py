"""Every folder shows the same whole tensors, with their parts and copies; a folder that is none is refused."""

import json

import numpy as np
import pytest
from qvl_core.errors import WeightsError
from qvl_core.layout import Layout
from qvl_core.params import EMBEDDING, LM_HEAD, parameter_table
from qvl_core.weights.manifest import rank_file_name
from qvl_core.weights.whole_tensors import open_whole_tensors
from sharded_folders import divisible_spec, draw_tensors, write_folder

TIED = divisible_spec(tied=True)
CUT = Layout(tp=2, pp=2, vision_stages=(2, 0), text_stages=(1, 2))
SPLIT = Layout(tp=4, pp=3, vision_stages=(1, 1, 0), text_stages=(0, 1, 2))


@pytest.fixture
def make(tmp_path):
    def write(layout, spec=TIED, name="folder", **options):
        kinds, arrays = draw_tensors(spec, 3)
        return write_folder(tmp_path / name, spec, layout, kinds, arrays, **options), arrays

    return write


@pytest.mark.parametrize("layout", [None, CUT, SPLIT])
def test_sizes_are_those_of_the_arrays(make, layout):
    path, arrays = make(layout)
    found = open_whole_tensors(path)
    assert found.size == sum(array.nbytes for array in arrays.values())
    assert found.layout == layout
    for name, array in arrays.items():
        tensor = found.tensors[name]
        assert (tensor.size, tensor.rows * tensor.row_bytes) == (array.nbytes, array.nbytes)


def test_parts_and_copies_are_counted_once_and_all_have_a_checksum(make):
    found = open_whole_tensors(make(CUT)[0])
    rows = {row.name: row for row in parameter_table(TIED, CUT)}
    for name, tensor in found.tensors.items():
        homes = len(rows[name].stages) * CUT.tp
        parts = 1 if rows[name].shard == "replicate" else CUT.tp
        assert (len(tensor.parts), len(tensor.copies)) == (parts, homes - parts), name
        assert sum(part.stop - part.start for part in tensor.parts) == tensor.size
        files = {part.file for part in (*tensor.parts, *tensor.copies)}
        assert len(files) == homes
    embedding = found.tensors[EMBEDDING]
    assert {part.file.name for part in embedding.copies} == {rank_file_name(1, 0), rank_file_name(1, 1)}
    assert open_whole_tensors(make(None, name="hf")[0]).tensors[EMBEDDING].parts == ()


@pytest.mark.parametrize(("tensor", "home"), [("model.norm.weight", (1, 1)), (EMBEDDING, (1, 0))])
def test_copies_that_are_recorded_as_different_are_refused_at_once(make, tensor, home):
    path, _ = make(CUT)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["tensors"][tensor]["parts"][rank_file_name(*home)] = f"sha256:{'0' * 64}"
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(WeightsError, match=rf"{tensor}\n  differs from the copy in rank-pp00.-tt000"):
        open_whole_tensors(path)


def test_a_tied_head_that_is_there_as_well_is_no_tensor_of_its_own(tmp_path):
    kinds, arrays = draw_tensors(TIED, 1)
    both, kinds[LM_HEAD] = {**arrays, LM_HEAD: arrays[EMBEDDING]}, kinds[EMBEDDING]
    found = open_whole_tensors(write_folder(tmp_path / "hf", TIED, None, kinds, both))
    assert list(found.tensors) == list(arrays)
    both[LM_HEAD] = both[LM_HEAD].copy()
    both[LM_HEAD].view(np.uint8)[0, 0] ^= 1
    other = write_folder(tmp_path / "other", TIED, None, kinds, both)
    with pytest.raises(WeightsError, match=r"the first difference is at \[0, 0\]"):
        open_whole_tensors(other)


def test_optimizer_files_without_tensors_are_optimizer_state_as_well(tmp_path):
    kinds, arrays = draw_tensors(TIED, 1)
    frozen = open_whole_tensors(write_folder(tmp_path / "x", TIED, CUT, kinds, arrays, optimizer={}))
    assert (dict(frozen.optimizer), frozen.has_optimizer) == ({}, True)
    without = open_whole_tensors(write_folder(tmp_path / "y", TIED, CUT, kinds, arrays))
    assert (dict(without.optimizer), without.has_optimizer) == ({}, False)


@pytest.mark.parametrize("layout", [None, CUT], ids=["hf", "sharded"])
def test_an_incomplete_folder_is_refused(make, layout):
    path, _ = make(layout)
    if layout is None:
        (path / "config.json").write_text((path / "config.json").read_text().replace('"depth": 2', '"depth": 3'))
    else:
        (path / rank_file_name(1, 1)).unlink()
    with pytest.raises(WeightsError, match=r"tensors are missing|and not there"):
        open_whole_tensors(path)
