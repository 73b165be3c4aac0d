"""Hostile and broken weights (cases W of the list of bad input) through the commands: exit 2, the file named, at once.

W30, other dtypes than the three of weights; W23, numbers that are none, is a round trip elsewhere.
"""

import json
import os
import shutil
import struct
import time

import numpy as np
import pytest
from qvl_core.weights.safetensors_header import read_header

NAME = "model.norm.weight"
# Import of a tiny model takes a quarter of a second; the rest is for a busy machine. What hangs takes longer.
SECONDS = 120


def rebuilt(content, change):
    """Give a safetensors file whose header, as an object, was changed."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    data = change(header) or b""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :] + data


def with_text(content, change):
    """Give a safetensors file whose header, as text, was changed."""
    length = int.from_bytes(content[:8], "little")
    text = change(content[8 : 8 + length])
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def field(key, value):
    return lambda content: rebuilt(content, lambda header: header[NAME].update({key: value}))


def renamed(name):
    return lambda content: rebuilt(content, lambda header: header.update({name: header.pop(NAME)}))


def twice(content, *, same):
    entry = json.dumps(json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])[NAME])
    other = entry if same else entry.replace("[32]", "[4, 8]")
    return with_text(content, lambda text: text.rstrip()[:-1] + f', "{NAME}": {other}}}'.encode())


def moved(by):
    def change(header):
        header[NAME]["data_offsets"] = [offset + by for offset in header[NAME]["data_offsets"]]

    return lambda content: rebuilt(content, change)


def extra(header):
    stop = max(entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__")
    header["spare"] = {"dtype": "U8", "shape": [4], "data_offsets": [stop, stop + 4]}
    return b"four"


def transposed(header):
    header["model.layers.0.mlp.down_proj.weight"]["shape"].reverse()


def dropped(content):
    """Leave a tensor out, without a hole."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    first, stop = header.pop(NAME)["data_offsets"]
    for key, entry in header.items():
        if key != "__metadata__" and entry["data_offsets"][0] >= stop:
            entry["data_offsets"] = [offset - (stop - first) for offset in entry["data_offsets"]]
    text, data = json.dumps(header).encode(), content[8 + length :]
    return struct.pack("<Q", len(text)) + text + data[:first] + data[stop:]


CASES = {
    "W1 empty": (lambda content: b"", "0 bytes"),
    "W2 seven bytes": (lambda content: content[:7], "has 7 bytes"),
    "W3 header of 2^63": (lambda content: struct.pack("<Q", 2**63) + content[8:], "9,223,372,036,854,775,808"),
    "W4 header of 100,000,001": (lambda content: struct.pack("<Q", 100_000_001) + content[8:], "100,000,001"),
    "W5 header past the end": (lambda content: struct.pack("<Q", len(content)) + content[8:], "truncated"),
    "W6 header of 0": (lambda content: bytes(8) + content[8:], "header of 0 bytes"),
    "W7 no UTF-8": (lambda content: with_text(content, lambda text: text.replace(b"pt", b"\xff\xfe")), "UTF-8"),
    "W8 nested": (lambda content: with_text(content, lambda text: b'{"a":' + b"[" * 100_000), "nested too deeply"),
    "W9 a name twice": (lambda content: twice(content, same=True), "occurs twice"),
    "W10 a name twice, two shapes": (lambda content: twice(content, same=False), "occurs twice"),
    "W11 leading space": (lambda content: with_text(content, lambda text: b" " + text), "opening brace"),
    "W12 overlapping": (moved(-2), "overlaps"),
    "W13 a hole": (moved(2), "unused bytes"),
    "W14 trailing bytes": (lambda content: content + b"x", "1 bytes after the last tensor"),
    "W15 one byte short": (lambda content: content[:-1], "truncated"),
    "W16 a negative offset": (field("data_offsets", [-64, 0]), "data_offsets"),
    "W17 shape against span": (field("shape", [33]), "takes 66 bytes, its offsets span 64"),
    "W18 shape past 64 bits": (field("shape", [2**40, 2**40]), "64 bits"),
    "a shape of 2^63": (field("shape", [2**63]), "2^63 - 1"),
    "a shape of a thousand digits": (field("shape", [10**1000]), "2^63 - 1"),
    "a negative shape": (field("shape", [-4, -8]), "2^63 - 1"),
    "a shape of truths": (field("shape", [True, 32]), "2^63 - 1"),
    "offsets that run backwards": (field("data_offsets", [64, 0]), "data_offsets"),
    "an unknown field": (field("code", "print(1)"), "needs exactly"),
    "W19 unknown dtype": (field("dtype", "F31"), "known are BOOL, U8"),
    "W20 metadata": (lambda content: rebuilt(content, lambda h: h.update(__metadata__={"a": 1})), "text to text"),
    "W21 name with a path": (renamed("../../x"), "is not a tensor name"),
    "W21 no name": (renamed(""), "is not a tensor name"),
    "W21 name with NUL": (renamed("a\0b"), "is not a tensor name"),
    "W21 long name": (renamed("x" * 10_000), "is not a tensor name"),
    "W22 no element": (field("shape", [0]), "takes 0 bytes"),
    "W27 a tensor is missing": (dropped, f"1 tensor is missing:\n  {NAME} [32]"),
    "W28 an extra tensor": (lambda content: rebuilt(content, extra), "1 tensor is not part of the model"),
    "W29 transposed": (lambda content: rebuilt(content, transposed), "has shape [64, 32], the model needs [32, 64]"),
    "W30 another dtype": (lambda content: with_text(content, lambda t: t.replace(b'"BF16"', b'"I16"', 1)), "I16"),
    "W31 Git LFS": (lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "W32 a web page": (lambda content: b"<!DOCTYPE html><html>404</html>", "is a web page"),
    "P2 a zip": (lambda content: b"PK\x03\x04" + content, "torch pickle"),
    "P1 a pickle": (lambda content: b"\x80\x04cos\nsystem\n(S'touch RAN'\ntR.", "a pickle"),
}  # fmt: skip


@pytest.fixture
def refused(qvl, check, work):
    def run(source, *words):
        before = check.snapshot(work)
        started = time.monotonic()
        result = qvl.run("convert", "import", "--hf", source, "--out", work / "out", "--tp", "2")
        assert time.monotonic() - started < SECONDS
        check.refused(result, 2, *words)
        assert result.notes["grown_kib"] < 200 * 1024
        assert len(result.err) < 10_000
        assert check.snapshot(work) == before

    return run


@pytest.mark.parametrize("case", CASES)
def test_a_broken_file_is_named(refused, small, case):
    change, words = CASES[case]
    file = small.hf / "model.safetensors"
    file.write_bytes(change(file.read_bytes()))
    refused(small.hf, "model.safetensors" if case[:3] not in ("W27", "W28", "W29", "W30") else "hf", words)


@pytest.mark.parametrize("case", ["W12 overlapping", "W9 a name twice", "W18 shape past 64 bits", "W32 a web page"])
def test_a_broken_file_of_a_sharded_folder_is_named(qvl, check, small, work, case):
    file = small.sharded / "rank-pp001-tt001.safetensors"
    content = CASES[case][0](file.read_bytes())
    file.write_bytes(content)
    manifest = json.loads((small.sharded / "manifest.json").read_text())
    manifest["files"][file.name]["size"] = len(content)
    (small.sharded / "manifest.json").write_text(json.dumps(manifest))
    result = qvl.run("convert", "export", "--sharded", small.sharded, "--out", work / "out")
    check.refused(result, 2, file.name, CASES[case][1])
    check.nothing_but(work)


def shards(small):
    return sorted(small.indexed.glob("*.safetensors"))


def test_indexes_that_lie(refused, small, room):
    """W24 a missing shard, W25 a name that leads outside, W26 a tensor in two shards."""
    index = small.indexed / "model.safetensors.index.json"
    sound = json.loads(index.read_text())
    first, second = (file.name for file in shards(small)[:2])
    inside = next(name for name, file in sound["weight_map"].items() if file == first)

    def lie(change, *words):
        value = json.loads(json.dumps(sound))
        change(value["weight_map"])
        index.write_text(json.dumps(value))
        refused(small.indexed, index.name, *words)

    lie(lambda names: names.update({inside: "absent.safetensors"}), "absent.safetensors", "not there")
    # A pipe: if it were opened, the process would wait for ever.
    os.mkfifo(room / "secret.safetensors")
    places = ["../secret.safetensors", "../../secret.safetensors", str(room / "secret.safetensors"), "a/b.safetensors"]
    for place in [*places, "..", ".safetensors", "c:x.safetensors", "\0.safetensors", "x" * 300 + ".safetensors"]:
        lie(lambda names, place=place: names.update({inside: place}), "is not the plain name")
    (room / "secret.safetensors").unlink()
    lie(lambda names: names.update({inside: second}), inside, f"the index says {second}, it is in {first}")
    lie(lambda names: names.pop(inside), "is not in the index", inside)
    lie(lambda names: names.update(spare=first), "is in no shard", "spare")
    lie(lambda names: names.clear(), "weight_map")
    index.write_text(json.dumps(sound))
    copy = read_header(small.indexed / second).tensors
    (small.indexed / second).write_bytes((small.indexed / first).read_bytes())
    refused(small.indexed, index.name, "in two shards", inside)
    assert copy


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "link in a circle", "link to nowhere"])
def test_a_shard_that_is_no_file_is_refused_at_once(refused, small, kind):
    """W34."""
    file = shards(small)[1]
    file.unlink()
    make = {
        "pipe": lambda: os.mkfifo(file),
        "folder": file.mkdir,
        "device": lambda: file.symlink_to("/dev/zero"),
        "link in a circle": lambda: file.symlink_to(file.name),
        "link to nowhere": lambda: file.symlink_to("nowhere"),
    }
    make[kind]()
    refused(small.indexed, file.name)


def test_tied_copies_that_differ_are_named_with_the_place(qvl, check, refused, small):
    """W33; with equal copies the folder is read."""
    file = small.hf / "model.safetensors"
    content = file.read_bytes()
    embedding = read_header(file).tensors["model.embed_tokens.weight"]
    copy = bytearray(content[embedding.start : embedding.stop])

    def head(header):
        stop = max(entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__")
        header["lm_head.weight"] = {"dtype": "BF16", "shape": [48, 32], "data_offsets": [stop, stop + len(copy)]}
        return bytes(copy)

    file.write_bytes(rebuilt(content, head))
    assert qvl.run("convert", "verify", small.hf, small.sharded).code == 0
    copy[2 * (32 * 5 + 7)] ^= 1
    file.write_bytes(rebuilt(content, head))
    refused(small.hf, "lm_head.weight", "the first difference is at [5, 7]")


def test_numbers_that_are_none_come_through_to_the_bit(qvl, check, small, work):
    """W23."""
    file = small.hf / "model.safetensors"
    content = bytearray(file.read_bytes())
    entry = read_header(file).tensors["model.layers.0.mlp.down_proj.weight"]
    odd = np.array([0x7F80, 0xFF80, 0x7FC1, 0xFFFF, 0x7F81, 0x8000, 0x0001, 0x0000], np.uint16)
    content[entry.start : entry.start + odd.nbytes] = odd.tobytes()
    file.write_bytes(content)
    for source, flag, command, out in (("hf", "--hf", "import", "a"), ("a", "--sharded", "export", "b")):
        path = small.hf if source == "hf" else work / source
        assert qvl.run("convert", command, flag, path, "--out", work / out).code == 0
        assert check.equal(work / out, small.hf)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 10**9), ("num_hidden_layers", 2**63), ("num_attention_heads", 0),
        ("num_attention_heads", -1), ("hidden_size", 10**30), ("vocab_size", 2**62), ("vocab_size", "48"),
        ("rope_theta", "1"), ("vision_config", []), ("model_type", "llama"), ("auto_map", {"a": "b"}),
        ("intermediate_size", 1e400), ("intermediate_size", True),
    ],
)  # fmt: skip
def test_configs_with_wild_numbers(refused, small, key, value):
    path = small.hf / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    refused(small.hf, "hf")


def test_a_layout_that_does_not_divide_the_tensors_is_refused(qvl, check, small, work):
    """A manifest of three ranks: thirds of 32 rows would leave two rows of nothing."""
    path = small.sharded / "manifest.json"
    value = json.loads(path.read_text())
    for tp in (3, 64, 1024, 10**9):
        value["layout"]["tp"] = tp
        path.write_text(json.dumps(value))
        result = qvl.run("convert", "export", "--sharded", small.sharded, "--out", work / "out")
        check.refused(result, 2, "manifest.json: layout.tp")
        assert result.notes["grown_kib"] < 50 * 1024


def test_a_manifest_that_names_files_elsewhere(qvl, check, small, room, work):
    path = small.sharded / "manifest.json"
    value = json.loads(path.read_text())
    for name in ("../../x", str(room / "x"), "a/b", "..", ""):
        path.write_text(json.dumps({**value, "files": {**value["files"], name: {"size": 1, "checksum": None}}}))
        result = qvl.run("convert", "export", "--sharded", small.sharded, "--out", work / "out")
        check.refused(result, 2, "manifest.json", "is not a plain file name")


def test_a_side_file_cannot_lead_out_of_the_output(qvl, check, small, work):
    """Names cannot: they are those of a folder. Code and pipes are not carried along, and links become files."""
    os.mkfifo(small.hf / "pipe.json")
    (small.hf / "modeling.py").write_text("raise SystemExit(7)")
    (small.hf / "linked.json").symlink_to(small.hf / "config.json")
    assert qvl.run("convert", "import", "--hf", small.hf, "--out", work / "out").code == 0
    names = {path.name for path in (work / "out").iterdir()}
    assert names == {"config.json", "linked.json", "manifest.json", "rank-pp000-tt000.safetensors", "tokenizer.json"}
    assert not (work / "out" / "linked.json").is_symlink()
    shutil.rmtree(work / "out")
