"""Writing safetensors: readable by the usual library, aligned, checksummed, never over something that is there."""

import hashlib

import numpy as np
import pytest
from qvl_core.errors import OutputError
from qvl_core.weights.safetensors_header import DTYPE_BYTES, read_header
from qvl_core.weights.safetensors_writer import (
    checksum_of_file,
    checksum_of_tensor,
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
