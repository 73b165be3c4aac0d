"""Any rows of any folder, in any steps, are those of the whole; what is not as recorded is told by name."""

import gc
import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qvl_core.errors import InputChangedError, RunError, WeightsError
from qvl_core.layout import Layout
from qvl_core.layout_rules import check_layout, derive_stages
from qvl_core.params import EMBEDDING, parameter_table
from qvl_core.specs import ModelSpec, TextSpec, TokenIds, VisionSpec
from qvl_core.weights import row_reader
from qvl_core.weights.manifest import rank_file_name
from qvl_core.weights.optimizer_state import optimizer_file_name
from qvl_core.weights.row_reader import OpenFiles, RowReader, check_parts
from qvl_core.weights.safetensors_header import read_header
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


@st.composite
def specs(draw):
    """Give a model that two tensor ranks can share, of few bytes and of odd proportions."""
    heads = draw(st.sampled_from([2, 4]))
    vision_heads = draw(st.sampled_from([2, 4, 6]))
    width = heads * 8
    depth = draw(st.integers(1, 3))
    return ModelSpec(
        name="qwen2.5-vl-custom",
        vision=VisionSpec(
            depth=depth,
            hidden_size=vision_heads * 4,
            num_heads=vision_heads,
            intermediate_size=2 * draw(st.integers(1, 7)),
            out_hidden_size=width,
            patch_size=2,
            window_size=8,
            full_attention_blocks=(depth - 1,),
        ),
        text=TextSpec(
            num_layers=draw(st.integers(1, 3)),
            hidden_size=width,
            intermediate_size=2 * draw(st.integers(1, 9)),
            num_heads=heads,
            num_kv_heads=2,
            vocab_size=2 * draw(st.integers(22, 30)),
            tie_word_embeddings=draw(st.booleans()),
            head_dim=8,
            mrope_section=(2, 1, 1),
        ),
        tokens=TokenIds(vision_start=40, vision_end=41, image=42, video=43),
    )


def read_all(tensor, files, steps, *, check=True):
    """Read a tensor in order, in blocks of these numbers of rows over and over, and compare its checksums."""
    reader, rows, first = RowReader(tensor, files, check=check), [], 0
    while first < tensor.rows:
        stop = min(tensor.rows, first + steps[len(rows) % len(steps)])
        rows.append(reader.read(first, stop).copy())
        first = stop
    reader.finish()
    return np.concatenate(rows)


@settings(max_examples=15, deadline=None)
@given(data=st.data(), spec=specs(), seed=st.integers(0, 99))
def test_rows_of_any_folder_in_any_steps_are_those_of_the_whole(data, spec, seed):
    pp = data.draw(st.integers(1, min(3, spec.text.num_layers)))
    vision, text = derive_stages(spec, pp)
    layout = Layout(tp=data.draw(st.sampled_from([1, 2])), pp=pp, vision_stages=vision, text_stages=text)
    assert not check_layout(spec, layout)
    chosen = data.draw(st.sampled_from([None, layout, layout]))
    steps = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=3))
    kinds, arrays = draw_tensors(spec, seed)
    with TemporaryDirectory() as root:
        found = open_whole_tensors(write_folder(Path(root, "x"), spec, chosen, kinds, arrays, max_shard_bytes=9000))
        assert list(found.tensors) == [row.name for row in parameter_table(spec)]
        with OpenFiles(found.inputs) as files:
            for name, array in arrays.items():
                tensor = found.tensors[name]
                assert (tensor.shape, tensor.dtype) == (array.shape, kinds[name])
                assert read_all(tensor, files, steps).tobytes() == array.tobytes(), name
                check_parts(tensor.copies, files)
                # Any rows, in any order, where no checksum is compared.
                reader, whole = RowReader(tensor, files), array.reshape(tensor.rows, -1)
                for _ in range(3):
                    first = data.draw(st.integers(0, tensor.rows - 1))
                    stop = data.draw(st.integers(first + 1, tensor.rows))
                    assert reader.read(first, stop).tobytes() == whole[first:stop].tobytes()
            files.require_unchanged()


def test_a_block_of_the_default_size_is_bounded_and_has_a_row_at_least(make, monkeypatch):
    path, _ = make(SPLIT)
    found = open_whole_tensors(path)
    for block_bytes in (1, 200):
        monkeypatch.setattr(row_reader, "BLOCK_BYTES", block_bytes)
        with OpenFiles(found.inputs) as files:
            for tensor in found.tensors.values():
                rows = RowReader(tensor, files).rows_per_block
                assert rows == 1 or rows * tensor.row_bytes <= block_bytes


def flip(file, tensor):
    entry = read_header(file).tensors[tensor]
    content = bytearray(file.read_bytes())
    content[entry.start + 3] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("layout", "tensor"),
    [
        (CUT, "model.layers.0.mlp.down_proj.weight"),
        (CUT, "visual.blocks.1.attn.qkv.weight"),
        (CUT, "model.layers.0.self_attn.q_proj.bias"),
        (SPLIT, "model.layers.0.mlp.gate_proj.weight"),
    ],
    ids=["columns", "thirds", "bias", "rows"],
)
def test_a_flipped_bit_is_found_with_file_and_tensor_and_no_other_is_blamed(make, layout, tensor):
    path, _ = make(layout)
    stages = {row.name: row.stages for row in parameter_table(TIED, layout)}[tensor]
    name = rank_file_name(stages[0], 1)
    flip(path / name, tensor)
    found = open_whole_tensors(path)
    with OpenFiles(found.inputs) as files:
        with pytest.raises(WeightsError, match=re.escape(f"{name}: {tensor}\n  is damaged")) as caught:
            read_all(found.tensors[tensor], files, [5])
        assert len(caught.value.problems) == 1
        with pytest.raises(WeightsError, match="is damaged"):
            check_parts(found.tensors[tensor].parts, files)
        read_all(found.tensors[tensor], files, [5], check=False)
        read_all(found.tensors["model.layers.1.mlp.down_proj.weight"], files, [5])


@pytest.mark.parametrize(
    ("layout", "tensor", "home"),
    [(CUT, "model.norm.weight", (1, 1)), (CUT, EMBEDDING, (1, 0)), (SPLIT, EMBEDDING, (2, 3))],
    ids=["replicated", "tied", "tied of four"],
)
def test_a_flipped_bit_in_a_copy_is_found(make, layout, tensor, home):
    path, _ = make(layout)
    flip(path / rank_file_name(*home), tensor)
    found = open_whole_tensors(path)
    with OpenFiles(found.inputs) as files:
        read_all(found.tensors[tensor], files, [7])
        with pytest.raises(WeightsError, match=re.escape(f"{rank_file_name(*home)}: {tensor}\n  is damaged")):
            check_parts(found.tensors[tensor].copies, files)


def test_optimizer_state_is_read_like_the_weights(tmp_path):
    kinds, arrays = draw_tensors(TIED, 1)
    state = {f"{name}.moment1": np.full(array.shape, 0.5, np.float32) for name, array in arrays.items()}
    found = open_whole_tensors(write_folder(tmp_path / "x", TIED, CUT, kinds, arrays, optimizer=state))
    assert (found.kind, found.has_optimizer) == ("checkpoint", True)
    assert set(found.optimizer) == set(state)
    with OpenFiles(found.inputs) as files:
        for name, tensor in found.optimizer.items():
            assert read_all(tensor, files, [6]).tobytes() == state[name].tobytes()
    assert {path.name for path in (one.path for one in found.inputs)} >= {optimizer_file_name(1, 1), "manifest.json"}


def test_a_file_that_shrinks_while_it_is_open_is_an_error(make):
    found = open_whole_tensors(make(None)[0])
    with OpenFiles(found.inputs) as files:
        reader = RowReader(found.tensors["model.norm.weight"], files)
        reader.read(0, 2)
        os.truncate(found.inputs[0].path, 1000)
        with pytest.raises(RunError, match=r"changed while it was read: bytes [\d,]+ to [\d,]+"):
            reader.read(0, 2)


def _replace(path):
    new = path.with_name("new")
    new.write_bytes(path.read_bytes())
    new.replace(path)


def _append(path):
    with path.open("ab") as file:
        file.write(b" ")


def _touch(path):
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("change", [_replace, _append, _touch, Path.unlink])
@pytest.mark.parametrize("layout", [None, CUT], ids=["hf", "sharded"])
def test_a_source_that_changes_is_noticed_at_the_end(make, layout, change):
    path, _ = make(layout)
    found = open_whole_tensors(path)
    for one in found.inputs:
        with OpenFiles(found.inputs) as files:
            files.require_unchanged()
            kept = one.path.read_bytes()
            change(one.path)
            with pytest.raises(InputChangedError, match=re.escape(one.path.name)):
                files.require_unchanged()
        one.path.write_bytes(kept)
        found = open_whole_tensors(path)


def test_a_file_that_was_replaced_before_it_was_opened_is_not_read(make):
    found = open_whole_tensors(make(CUT)[0])
    target = found.tensors[EMBEDDING].parts[0].file
    _replace(target)
    with OpenFiles(found.inputs) as files:
        with pytest.raises(InputChangedError, match="was written or replaced while it was read"):
            RowReader(found.tensors[EMBEDDING], files).read(0, 1)
        target.unlink()
        with pytest.raises((InputChangedError, WeightsError), match=re.escape(str(target))):
            RowReader(found.tensors[EMBEDDING], files).read(0, 1)


def test_each_file_is_opened_once_and_all_are_closed(make):
    found = open_whole_tensors(make(SPLIT)[0])
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    with OpenFiles(found.inputs) as files:
        for tensor in found.tensors.values():
            read_all(tensor, files, [100])
            read_all(tensor, files, [100])
        assert len(list(Path("/proc/self/fd").iterdir())) - before <= len(found.inputs)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
