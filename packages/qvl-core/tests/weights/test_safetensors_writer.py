"""Writing safetensors: readable by the usual library, aligned, checksummed, never over something that is there."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qvl_core.errors import OutputError
from qvl_core.weights.safetensors_header import DTYPE_BYTES, read_header
from qvl_core.weights.safetensors_writer import (
    TensorShape,
    TensorToWrite,
    checksum_of_file,
    checksum_of_tensor,
    outline,
    tensor_from_entry,
    write_safetensors,
)
from qvl_core.weights.tensor_io import tensor_from_array


def mixed():
    return [
        tensor_from_array("half", np.ones(3, np.float16)),
        tensor_from_array("byte", np.ones(5, np.uint8)),
        tensor_from_array("wide", np.ones(2, np.int64)),
        tensor_from_array("single", np.full((2, 2), 3, np.float32)),
    ]


def test_the_usual_library_reads_it(tmp_path):
    library = pytest.importorskip("safetensors.numpy", reason="the comparison needs safetensors")
    write_safetensors(tmp_path / "x", mixed())
    found = library.load_file(tmp_path / "x")
    assert set(found) == {"half", "byte", "wide", "single"}
    assert found["single"].tolist() == [[3, 3], [3, 3]]


def test_every_tensor_is_aligned_to_its_element(tmp_path):
    write_safetensors(tmp_path / "x", mixed())
    for entry in read_header(tmp_path / "x").tensors.values():
        assert entry.start % DTYPE_BYTES[entry.dtype] == 0


def test_reports_size_and_checksums(tmp_path):
    written = write_safetensors(tmp_path / "x", mixed())
    assert written.size == (tmp_path / "x").stat().st_size
    assert written.checksums["half"] == f"sha256:{hashlib.sha256(np.ones(3, np.float16).tobytes()).hexdigest()}"
    for name, entry in read_header(tmp_path / "x").tensors.items():
        assert checksum_of_tensor(entry) == written.checksums[name]
    assert checksum_of_file(tmp_path / "x") == f"sha256:{hashlib.sha256((tmp_path / 'x').read_bytes()).hexdigest()}"


def test_copies_bytes_from_another_file(tmp_path):
    write_safetensors(tmp_path / "x", mixed())
    entries = read_header(tmp_path / "x").tensors.values()
    write_safetensors(tmp_path / "y", [tensor_from_entry(entry) for entry in entries])
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    write_safetensors(tmp_path / "z", [tensor_from_entry(entry, f"new.{entry.name}") for entry in entries])
    assert "new.half" in read_header(tmp_path / "z").tensors


def test_metadata_is_format_pt_unless_given(tmp_path):
    write_safetensors(tmp_path / "x", mixed())
    write_safetensors(tmp_path / "y", mixed(), metadata={"a": "b"})
    assert read_header(tmp_path / "x").metadata == {"format": "pt"}
    assert read_header(tmp_path / "y").metadata == {"a": "b"}


def test_never_overwrites_and_never_follows_a_planted_link(tmp_path):
    (tmp_path / "x").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("x", "link"):
        with pytest.raises(OutputError, match="cannot be written"):
            write_safetensors(tmp_path / name, mixed())
    assert (tmp_path / "x").read_bytes() == b"old"
    assert not (tmp_path / "elsewhere").exists()


def test_a_failure_leaves_no_file(tmp_path):
    def broken():
        yield b"ab"
        raise OSError(28, "No space left on device")

    tensor = tensor_from_array("x", np.zeros(4, np.uint8))
    with pytest.raises(Exception, match="No space left"):
        write_safetensors(tmp_path / "x", [type(tensor)(name="x", dtype="U8", shape=(4,), chunks=broken)])
    assert list(tmp_path.iterdir()) == []


SHAPES = st.lists(
    st.tuples(st.sampled_from(sorted(DTYPE_BYTES)), st.lists(st.integers(0, 5), max_size=3)), min_size=0, max_size=8
)


@settings(max_examples=40, deadline=None)
@given(SHAPES)
def test_an_outline_is_the_file_to_the_byte(tmp_path_factory, found):
    shapes = [TensorShape(name=f"t.{i}", dtype=dtype, shape=tuple(shape)) for i, (dtype, shape) in enumerate(found)]
    plan = outline(shapes)
    path = tmp_path_factory.mktemp("outline") / "x"
    tensors = [
        TensorToWrite(name=one.name, dtype=one.dtype, shape=one.shape, chunks=lambda one=one: [bytes(one.size)])
        for one in shapes
    ]
    written = write_safetensors(path, tensors)
    assert written.size == plan.size == path.stat().st_size
    assert path.read_bytes().startswith(plan.header)
    header = read_header(path)
    assert {name: entry.start for name, entry in header.tensors.items()} == dict(plan.starts)
    assert all(entry.start % DTYPE_BYTES[entry.dtype] == 0 for entry in header.tensors.values())
    assert set(written.checksums) == {one.name for one in shapes}


def test_the_outline_keeps_the_order_of_tensors_of_one_width():
    shapes = [TensorShape(name=name, dtype="BF16", shape=(3,)) for name in ("b", "a", "c")]
    assert list(outline(shapes).starts) == ["b", "a", "c"]


def test_a_file_of_hundreds_of_gigabytes_is_planned_without_writing_it():
    huge = TensorShape(name="x", dtype="F32", shape=(2**36, 3))
    plan = outline([huge, TensorShape(name="y", dtype="BF16", shape=(1,))])
    assert plan.size == len(plan.header) + huge.size + 2
    assert plan.starts["y"] == len(plan.header) + huge.size


def test_one_name_twice_is_our_own_mistake():
    twice = [TensorShape(name="x", dtype="F32", shape=(1,))] * 2
    with pytest.raises(AssertionError, match="x comes twice"):
        outline(twice)


def test_bytes_other_than_announced_leave_no_file(tmp_path):
    short = TensorToWrite(name="x", dtype="U8", shape=(4,), chunks=lambda: [b"abc"])
    with pytest.raises(AssertionError, match="3 bytes came, 4 were announced"):
        write_safetensors(tmp_path / "x", [short])
    assert list(tmp_path.iterdir()) == []
