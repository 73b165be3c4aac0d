"""The strict header reader: every case of a wrong file, and the right files beside them."""

import json
import os
import tracemalloc
import zipfile

import pytest
from qvl_core.errors import WeightsError
from qvl_core.weights.safetensors_header import DTYPE_BYTES, MAX_NAME_LENGTH, read_header

GOOD = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def framed(text: bytes | str | dict, data: bytes = b"") -> bytes:
    text = json.dumps(text) if isinstance(text, dict) else text
    text = text.encode() if isinstance(text, str) else text
    return len(text).to_bytes(8, "little") + text + data


@pytest.fixture
def read(tmp_path):
    def reader(content: bytes):
        path = tmp_path / "model.safetensors"
        path.write_bytes(content)
        return read_header(path)

    return reader


def refused(read, content: bytes) -> str:
    with pytest.raises(WeightsError) as caught:
        read(content)
    assert all(problem.where.endswith("model.safetensors") for problem in caught.value.problems)
    return str(caught.value)


def test_reads_places_counted_from_the_beginning_of_the_file(read):
    content = framed(GOOD, bytes(range(24)))
    header = read(content)
    found = header.tensors["a"]
    assert (found.dtype, found.shape, found.size) == ("F32", (2, 3), 24)
    assert content[found.start : found.stop] == bytes(range(24))
    assert header.metadata == {}
    assert header.size == len(content)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        pytest.param(b"", "0 bytes", id="W1 empty"),
        pytest.param(b"1234567", "7 bytes", id="W2 seven bytes"),
        pytest.param((2**63).to_bytes(8, "little") + b"{}", "9,223,372,036,854,775,808", id="W3 length 2^63"),
        pytest.param((100_000_001).to_bytes(8, "little") + b"{}", "100,000,001", id="W4 header too long"),
        pytest.param((100).to_bytes(8, "little") + b'{"a":1}', "truncated", id="W5 longer than the file"),
        pytest.param((0).to_bytes(8, "little"), "0 bytes", id="W6 no header"),
        pytest.param((0).to_bytes(8, "little") + b"abc", "0 bytes", id="W6 no header but data"),
        pytest.param(framed(b'{"\xff": 1}'), "not UTF-8", id="W7 wrong UTF-8"),
        pytest.param(framed('{"a":' + "[" * 100_000), "too deeply", id="W8 nested brackets"),
        pytest.param(
            framed('{"a":%s,"a":%s}' % ((json.dumps(entry()),) * 2), bytes(4)), "twice", id="W9 same name, same entry"
        ),
        pytest.param(
            framed(f'{{"a":{json.dumps(entry())},"a":{json.dumps(entry("U8", (4,)))}}}', bytes(4)),
            "twice",
            id="W10 same name, other shape",
        ),
        pytest.param(framed(" " + json.dumps(GOOD), bytes(24)), "opening brace", id="W11 leading space"),
        pytest.param(
            framed({"a": entry("U8", (4,), (0, 4)), "b": entry("U8", (4,), (2, 6))}, bytes(6)),
            "overlaps a",
            id="W12 overlap",
        ),
        pytest.param(
            framed({"a": entry("U8", (4,), (0, 4)), "b": entry("U8", (4,), (6, 10))}, bytes(10)),
            "2 unused bytes after a",
            id="W13 hole",
        ),
        pytest.param(
            framed({"a": entry("U8", (4,), (2, 6))}, bytes(6)),
            "unused bytes after the header",
            id="W13 hole at the start",
        ),
        pytest.param(framed(GOOD, bytes(25)), "1 bytes after the last tensor", id="W14 trailing byte"),
        pytest.param(framed(GOOD, bytes(23)), "truncated", id="W15 one byte short"),
        pytest.param(framed({"a": entry("U8", (4,), (-4, 0))}), "data_offsets [-4, 0]", id="W16 negative offset"),
        pytest.param(framed({"a": entry("U8", (4,), (4, 0))}, bytes(4)), "data_offsets [4, 0]", id="W16 backwards"),
        pytest.param(framed({"a": entry(shape=(2,))}, bytes(4)), "takes 8 bytes, its offsets span 4", id="W17 span"),
        pytest.param(framed({"a": entry(shape=(2**40, 2**40))}, bytes(4)), "more bytes than 64 bits", id="W18 product"),
        pytest.param(framed({"a": entry(shape=(2**63,))}, bytes(4)), "2^63 - 1", id="W18 one size"),
        pytest.param(framed({"a": entry("F31")}, bytes(4)), "known are BOOL", id="W19 dtype"),
        pytest.param(framed({"a": entry(["F32"])}, bytes(4)), "known are BOOL", id="W19 dtype is a list"),
        pytest.param(framed({**GOOD, "__metadata__": {"a": 1}}, bytes(24)), "text to text", id="W20 metadata value"),
        pytest.param(framed({**GOOD, "__metadata__": ["a"]}, bytes(24)), "text to text", id="W20 metadata list"),
        pytest.param(framed({"../../x": entry()}, bytes(4)), "not a tensor name", id="W21 path"),
        pytest.param(framed({"": entry()}, bytes(4)), "not a tensor name", id="W21 empty"),
        pytest.param(framed({"a\0b": entry()}, bytes(4)), "not a tensor name", id="W21 NUL"),
        pytest.param(framed({"a\n": entry()}, bytes(4)), "not a tensor name", id="W21 line feed"),
        pytest.param(framed({"x" * 10_000: entry()}, bytes(4)), "this has 10000", id="W21 10,000 characters"),
        pytest.param(framed({"a": {**entry(), "x": 1}}, bytes(4)), "exactly dtype", id="unknown field"),
        pytest.param(framed({"a": {"dtype": "F32"}}, bytes(4)), "exactly dtype", id="missing field"),
        pytest.param(framed({"a": 3}, bytes(4)), "exactly dtype", id="entry is a number"),
        pytest.param(framed({"a": entry(shape=(True,))}, bytes(4)), "whole numbers", id="shape of true"),
        pytest.param(framed({"a": entry(shape=(1.0,))}, bytes(4)), "whole numbers", id="shape of 1.0"),
        pytest.param(framed({"a": entry(offsets=(0, 2, 4))}, bytes(4)), "data_offsets", id="three offsets"),
        pytest.param(framed('{"a": NaN}'), "NaN", id="NaN"),
        pytest.param(framed("{} x"), "not JSON", id="text after the object"),
    ],
)
def test_refuses(read, content, part):
    assert part in refused(read, content)


@pytest.mark.parametrize(
    ("content", "shapes"),
    [
        pytest.param(framed({}), {}, id="no tensors"),
        pytest.param(framed("{}   "), {}, id="padded with spaces"),
        pytest.param(framed({**GOOD, "__metadata__": {"format": "pt"}}, bytes(24)), {"a": (2, 3)}, id="metadata"),
        pytest.param(framed({"a": entry(shape=(0, 3), offsets=(0, 0))}), {"a": (0, 3)}, id="W22 zero-size dimension"),
        pytest.param(framed({"a": entry(shape=())}, bytes(4)), {"a": ()}, id="scalar"),
        pytest.param(
            framed({"b": entry(offsets=(4, 8)), "a": entry(offsets=(0, 4)), "z": entry("U8", (0,), (4, 4))}, bytes(8)),
            {"a": (1,), "z": (0,), "b": (1,)},
            id="order of the data, not of the header",
        ),
        pytest.param(framed({"x" * MAX_NAME_LENGTH: entry()}, bytes(4)), {"x" * MAX_NAME_LENGTH: (1,)}, id="long name"),
    ],
)
def test_accepts(read, content, shapes):
    assert {name: found.shape for name, found in read(content).tensors.items()} == shapes
    assert list(read(content).tensors) == list(shapes)


@pytest.mark.parametrize("dtype", sorted(DTYPE_BYTES))
def test_accepts_every_known_dtype(read, dtype):
    size = 3 * DTYPE_BYTES[dtype]
    assert read(framed({"a": entry(dtype, (3,), (0, size))}, bytes(size))).tensors["a"].size == size


def test_lists_up_to_ten_problems_of_one_file(read):
    with pytest.raises(WeightsError) as caught:
        read(framed({f"a{i}": entry("F31") for i in range(30)}, bytes(4)))
    assert [problem.key for problem in caught.value.problems] == [f"a{i}" for i in range(10)]


def torch_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n", "git lfs pull"),
        (b"<!DOCTYPE html><html><body>401</body></html>", "web page"),
        (b"\n <HTML>", "web page"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "is a pickle"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}", "numpy"),
        (b"GGUF\x03\x00\x00\x00" + bytes(20), "GGUF"),
        (b"\x1f\x8b\x08\x00" + bytes(20), "compressed"),
        (b'{"weight_map": {}}', "JSON text"),
        (b"\x0a\x18\x0a\x05w.bin\x12\x0f\x08\x02\x12\x07Float32" + bytes(9), "MindSpore"),
    ],
)
def test_recognises_other_files_and_names_the_way_out(read, content, part):
    text = refused(read, content)
    assert part in text
    assert "fix:" in text


def test_recognises_a_torch_zip_by_its_bytes_not_its_name(tmp_path):
    torch_zip(tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="probably a torch pickle"):
        read_header(tmp_path / "model.safetensors")


def test_refuses_what_is_not_a_regular_file_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path, kind in ((tmp_path / "pipe", "named pipe"), (tmp_path / "folder", "a folder")):
        with pytest.raises(WeightsError, match=kind):
            read_header(path)
    with pytest.raises(WeightsError, match="character device"):
        read_header(type(tmp_path)("/dev/zero"))
    with pytest.raises(WeightsError, match="no such file"):
        read_header(tmp_path / "absent")


def test_follows_a_symlink_to_a_regular_file(tmp_path):
    (tmp_path / "blob").write_bytes(framed(GOOD, bytes(24)))
    (tmp_path / "link").symlink_to("blob")
    assert list(read_header(tmp_path / "link").tensors) == ["a"]


@pytest.mark.parametrize("length", [2**63, 100_000_001, 2**24])
def test_a_hostile_length_allocates_nothing(read, length):
    tracemalloc.start()
    refused(read, length.to_bytes(8, "little") + b'{"a":')
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1024**2


def test_agrees_with_the_usual_library(tmp_path):
    library = pytest.importorskip("safetensors.numpy", reason="the comparison needs safetensors")
    import numpy as np

    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros((0, 2), np.float16)}
    library.save_file(arrays, tmp_path / "x.safetensors", metadata={"k": "v"})
    header = read_header(tmp_path / "x.safetensors")
    assert {name: found.shape for name, found in header.tensors.items()} == {"a": (2, 3), "b": (0, 2)}
    assert header.metadata == {"k": "v"}
