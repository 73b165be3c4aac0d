"""A rank's tensors from any folder are, to the bit, those that `sharding.cut` gives; damage is told by name."""

import json
import os
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qvl_core.errors import RunError, WeightsError
from qvl_core.layout import Layout
from qvl_core.layout_rules import check_layout
from qvl_core.params import EMBEDDING, parameter_table
from qvl_core.weights import local_tensors as module
from qvl_core.weights.local_tensors import local_optimizer_tensors, local_tensors, local_values
from qvl_core.weights.manifest import rank_file_name, rank_tensors
from qvl_core.weights.optimizer_state import optimizer_file_name, split_name
from qvl_core.weights.raw_bytes import read_into
from qvl_core.weights.safetensors_header import read_header
from qvl_core.weights.sharding import cut
from qvl_core.weights.tensor_io import raw_to_float32
from qvl_core.weights.whole_tensors import open_whole_tensors
from sharded_folders import divisible_spec, draw_tensors, write_folder

TIED, UNTIED = divisible_spec(tied=True), divisible_spec(tied=False)
CUT = Layout(tp=2, pp=2, vision_stages=(2, 0), text_stages=(1, 2))


def legal_layouts(spec):
    """Give every legal layout of up to three stages."""

    def splits(total, pp):
        return [(total,)] if pp == 1 else [(n, *rest) for n in range(total + 1) for rest in splits(total - n, pp - 1)]

    return [
        layout
        for tp in (1, 2, 4)
        for pp in (1, 2, 3)
        for vision in splits(spec.vision.depth, pp)
        for text in splits(spec.text.num_layers, pp)
        if not check_layout(spec, layout := Layout(tp=tp, pp=pp, vision_stages=vision, text_stages=text))
    ]


LAYOUTS = legal_layouts(TIED)


def draw_state(spec):
    """Give optimizer state of the text model and the merger, in fp32."""
    random = np.random.default_rng(5)
    return {
        f"{row.name}.{kind}": random.standard_normal(row.shape, np.float32)
        for row in parameter_table(spec)
        for kind in ("moment1", "moment2", "master")
        if row.component != "vision"
    }


def write_kind(root, kind, layout, spec, kinds, arrays) -> Path:
    """Write a folder of this kind; `layout` is for those that have one."""
    if kind.startswith("hf"):
        naming, size = ("new", 3000) if kind == "hf new, indexed" else ("classic", 10**9)
        return write_folder(root / "folder", spec, None, kinds, arrays, naming=naming, max_shard_bytes=size)
    return write_folder(
        root / "folder", spec, layout, kinds, arrays, draw_state(spec) if kind == "checkpoint" else None
    )


def assert_equal_to_cut(tensors, wanted, kinds, layout, tp):
    """Compare with the parts that `cut` gives of whole arrays, `wanted` by name with their shard rules."""
    found = {tensor.name: tensor for tensor in tensors}
    assert list(found) == list(wanted)
    for name, (array, shard) in wanted.items():
        part = np.ascontiguousarray(cut(array, shard, tp=layout.tp, rank=tp))
        assert found[name].dtype == kinds.get(name, "F32")
        assert found[name].array.dtype == part.dtype
        assert found[name].array.shape == part.shape
        assert found[name].array.tobytes() == part.tobytes(), name


@settings(max_examples=40, deadline=None)
@given(
    spec=st.sampled_from([TIED, UNTIED]),
    kind=st.sampled_from(["hf", "hf new, indexed", "sharded", "checkpoint"]),
    source=st.sampled_from(LAYOUTS),
    target=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 3),
    block_bytes=st.sampled_from([1, 100, 2**22]),
)
def test_a_ranks_part_is_the_cut_of_the_whole_to_the_bit(spec, kind, source, target, seed, block_bytes):
    kinds, arrays = draw_tensors(spec, seed)
    with TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_BYTES", block_bytes)
        opened = open_whole_tensors(write_kind(Path(root), kind, source, spec, kinds, arrays))
        assert opened.kind == kind.split()[0]
        state = draw_state(spec) if kind == "checkpoint" else {}
        for pp in range(target.pp):
            rows = {row.name: row for row in rank_tensors(spec, target, pp)}
            wanted = {name: (arrays[name], row.shard) for name, row in rows.items()}
            owners = {name: rows.get(split_name(name)[0]) for name in state}
            moments = {name: (state[name], row.shard) for name, row in owners.items() if row is not None}
            for tp in range(target.tp):
                assert_equal_to_cut(local_tensors(opened, target, pp, tp), wanted, kinds, target, tp)
                assert_equal_to_cut(local_optimizer_tensors(opened, target, pp, tp), moments, {}, target, tp)


@pytest.mark.parametrize("kind", ["hf", "sharded"])
def test_values_are_the_exact_fp32_of_the_bits(tmp_path, kind):
    kinds, arrays = draw_tensors(TIED)
    opened = open_whole_tensors(write_kind(tmp_path, kind, CUT, TIED, kinds, arrays))
    values = dict(local_values(opened, Layout.single(TIED), 0, 0))
    assert list(values) == list(arrays)
    for name, value in values.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, raw_to_float32(arrays[name], kinds[name]))


def test_the_head_that_a_tied_model_may_carry_as_well_is_left_out(make_hf, arrays):
    opened = open_whole_tensors(make_hf(tied_copy=arrays[EMBEDDING]))
    assert [tensor.name for tensor in local_tensors(opened, Layout.single(opened.spec), 0, 0)] == list(arrays)


def test_only_the_rows_of_the_rank_are_read_from_an_hf_folder(tmp_path, monkeypatch):
    kinds, arrays = draw_tensors(UNTIED)
    opened = open_whole_tensors(write_kind(tmp_path, "hf", None, UNTIED, kinds, arrays))
    counted = count_bytes(monkeypatch)
    target = Layout(tp=4, pp=1, vision_stages=(2,), text_stages=(3,))
    list(local_tensors(opened, target, 0, 1))
    # Columns lie apart in the file: their rows are read whole.
    whole = {row.name: row.shard in ("replicate", "row") for row in rank_tensors(UNTIED, target, 0)}
    sizes = {name: tensor.size for name, tensor in opened.tensors.items()}
    assert sum(counted) == sum(size if whole[name] else size // 4 for name, size in sizes.items())


def test_of_a_sharded_folder_the_own_file_is_read_and_copies_of_what_is_replicated(tmp_path, monkeypatch):
    kinds, arrays = draw_tensors(UNTIED)
    opened = open_whole_tensors(write_kind(tmp_path, "sharded", CUT, UNTIED, kinds, arrays))
    counted = count_bytes(monkeypatch)
    list(local_tensors(opened, CUT, 1, 1))
    cut_rows = [row for row in rank_tensors(UNTIED, CUT, 1) if row.shard != "replicate"]
    sizes = {name: tensor.size for name, tensor in opened.tensors.items()}
    replicated = [row for row in rank_tensors(UNTIED, CUT, 1) if row.shard == "replicate"]
    # `check_parts` reads the copies, and is not counted.
    assert sum(counted) == sum(sizes[row.name] // 2 for row in cut_rows) + sum(sizes[row.name] for row in replicated)


def count_bytes(monkeypatch):
    """Give the list to which the size of every reading is added."""
    counted = []

    def read(descriptor, start, target, path):
        counted.append(len(target))
        read_into(descriptor, start, target, path)

    monkeypatch.setattr(module, "read_into", read)
    return counted


@pytest.mark.parametrize("target", [Layout.single(TIED), CUT], ids=["whole", "cut"])
def test_a_flipped_bit_of_any_file_is_told_with_file_and_tensor(tmp_path, target):
    kinds, arrays = draw_tensors(TIED)
    path = write_kind(tmp_path, "checkpoint", CUT, TIED, kinds, arrays)
    random = np.random.default_rng(3)
    for file in (name(pp, tp) for name in (rank_file_name, optimizer_file_name) for pp, tp in ((0, 0), (0, 1), (1, 0))):
        content = (path / file).read_bytes()
        entries = list(read_header(path / file).tensors.values())
        # In every file of this layout but one, one of these is a copy: an embedding, a norm.
        for entry in (entries[0], entries[int(random.integers(len(entries)))], entries[-1]):
            damaged = bytearray(content)
            damaged[entry.start + int(random.integers(entry.size))] ^= 1
            (path / file).write_bytes(damaged)
            with pytest.raises(WeightsError) as caught:
                read_all_ranks(path, target)
            assert [(one.where, one.key) for one in caught.value.problems] == [(str(path / file), entry.name)]
            assert "is damaged" in str(caught.value)
        (path / file).write_bytes(content)


def read_all_ranks(path, layout):
    opened = open_whole_tensors(path)
    for pp in range(layout.pp):
        for tp in range(layout.tp):
            for read in (local_tensors, local_optimizer_tensors):
                list(read(opened, layout, pp, tp))


def test_a_damaged_copy_of_a_tied_embedding_is_told(tmp_path):
    kinds, arrays = draw_tensors(TIED)
    path = write_kind(tmp_path, "sharded", CUT, TIED, kinds, arrays)
    file = path / rank_file_name(1, 1)
    entry = read_header(file).tensors[EMBEDDING]
    content = bytearray(file.read_bytes())
    content[entry.stop - 1] ^= 16
    file.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        list(local_tensors(open_whole_tensors(path), Layout.single(TIED), 0, 0))
    assert [(one.where, one.key) for one in caught.value.problems] == [(str(file), EMBEDDING)]


def test_copies_that_were_written_different_are_told(tmp_path):
    kinds, arrays = draw_tensors(TIED)
    path = write_kind(tmp_path, "sharded", CUT, TIED, kinds, arrays)
    changed = {**arrays, "model.norm.weight": arrays["model.norm.weight"][::-1]}
    other = write_kind(tmp_path / "other", "sharded", CUT, TIED, kinds, changed)
    file = rank_file_name(1, 1)
    shutil.copy(other / file, path / file)
    manifest = json.loads((path / "manifest.json").read_text())
    parts = json.loads((other / "manifest.json").read_text())["tensors"]["model.norm.weight"]["parts"]
    manifest["tensors"]["model.norm.weight"]["parts"][file] = parts[file]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(WeightsError, match=f"{file}: model.norm.weight\n  differs from the copy in"):
        list(local_tensors(open_whole_tensors(path), CUT, 1, 1))


@pytest.mark.parametrize("kind", ["hf", "sharded"])
@pytest.mark.parametrize("change", ["written", "replaced", "shortened", "removed"])
def test_a_file_that_changes_meanwhile_fails_the_loading(tmp_path, kind, change):
    kinds, arrays = draw_tensors(TIED)
    path = write_kind(tmp_path, kind, CUT, TIED, kinds, arrays)
    file = path / ("model.safetensors" if kind == "hf" else rank_file_name(0, 1))
    tensors = local_tensors(open_whole_tensors(path), CUT, 0, 1)
    next(tensors)
    if change == "written":
        os.utime(file, ns=(1, 1))
    elif change == "replaced":
        shutil.copy(file, tmp_path / "new")
        (tmp_path / "new").replace(file)
    elif change == "shortened":
        os.truncate(file, 1000)
    else:
        file.unlink()
    with pytest.raises(RunError, match=file.name):
        list(tensors)


def test_memory_beyond_the_result_is_a_few_blocks(tmp_path):
    spec = replace(UNTIED, text=replace(UNTIED.text, vocab_size=200_000))
    arrays = {row.name: np.zeros(row.shape, np.float32) for row in parameter_table(spec)}
    kinds = dict.fromkeys(arrays, "F32")
    one = Layout(tp=1, pp=1, vision_stages=(2,), text_stages=(3,))
    path = write_kind(tmp_path, "sharded", one, spec, kinds, arrays)
    del arrays
    target = Layout(tp=2, pp=1, vision_stages=(2,), text_stages=(3,))
    opened = open_whole_tensors(path)
    largest = opened.tensors[EMBEDDING].size // 2
    assert largest > 12_000_000
    tracemalloc.start()
    for tensor in local_tensors(opened, target, 0, 1):
        del tensor
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < largest + 2.5 * module.BLOCK_BYTES
