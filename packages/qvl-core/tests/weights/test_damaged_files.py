"""Damaged files by the thousand through every reader: each is read correctly or refused with a text for people."""

import random

import pytest
from damaged_files import COUNTS, Trial, damaged_file, damaged_text
from qvl_core.layout import Layout
from qvl_core.params import parameter_table
from qvl_core.weights.hf_folder import INDEX_FILE
from qvl_core.weights.manifest import MANIFEST_NAME
from qvl_core.weights.raw_bytes import pieces
from qvl_core.weights.safetensors_header import read_header
from qvl_core.weights.safetensors_writer import TensorToWrite, write_safetensors
from qvl_core.weights.whole_tensors import open_whole_tensors


def test_there_are_five_thousand_files():
    assert sum(COUNTS.values()) >= 5_000


def outline_of(source):
    """Give what two folders with the same weights have in common."""
    return {
        name: (tensor.shape, tensor.dtype, tensor.pieces, [(part.start, part.stop) for part in tensor.parts])
        for name, tensor in source.tensors.items()
    }


def test_damaged_headers(tmp_path):
    chance = random.Random("header")
    small = tmp_path / "small.safetensors"
    tensors = [
        TensorToWrite(name=f"model.layers.{i}.weight", dtype=dtype, shape=shape, chunks=lambda n=n: [bytes(range(n))])
        for i, (dtype, shape, n) in enumerate(
            [("F32", (2, 3), 24), ("BF16", (4,), 8), ("F16", (3, 0), 0), ("U8", (), 1)]
        )
    ]
    write_safetensors(small, tensors)
    sound = small.read_bytes()
    trial = Trial(tmp_path, tmp_path / "file.safetensors")

    def read():
        header = read_header(trial.file)
        # What is accepted can be read to the last byte: every byte after the header belongs to one tensor.
        return header, b"".join(piece for entry in header.tensors.values() for piece in pieces(entry))

    for _ in range(COUNTS["header"]):
        content = damaged_file(sound, chance)
        found = trial.run(content, read)
        if found is not None:
            start = 8 + int.from_bytes(content[:8], "little")
            assert found[1] == content[start:]
    trial.finish("header")


def test_damaged_indexes(make_hf):
    chance = random.Random("index")
    folder = make_hf(max_shard_bytes=1_000_000)
    sound, expected = (folder / INDEX_FILE).read_bytes(), outline_of(open_whole_tensors(folder))
    trial = Trial(folder.parent, folder / INDEX_FILE)
    for _ in range(COUNTS["index"]):
        found = trial.run(damaged_text(sound, chance), lambda: open_whole_tensors(folder))
        # An index adds nothing to what the shards say: whatever is accepted is the same.
        assert found is None or outline_of(found) == expected
    trial.finish("index")


@pytest.mark.parametrize("carried", [True, False], ids=["with config", "without"])
def test_damaged_manifests(make_sharded, side_files, spec, carried):
    chance = random.Random(f"manifest {carried}")
    folder = make_sharded(Layout(vision_stages=(spec.vision.depth, 0), text_stages=(1, spec.text.num_layers - 1), pp=2))
    if carried:
        (folder / "config.json").write_bytes((side_files / "config.json").read_bytes())
    opened = open_whole_tensors(folder)
    sound, expected = (folder / MANIFEST_NAME).read_bytes(), outline_of(opened)
    trial = Trial(folder.parent, folder / MANIFEST_NAME)
    # Most of a manifest are its checksums: what comes before them gets its share.
    head = sound.index(b'"tensors"')
    for i in range(COUNTS["manifest"] // 2):
        text = damaged_text(sound[:head], chance) + sound[head:] if i % 2 else damaged_text(sound, chance)
        found = trial.run(text, lambda: open_whole_tensors(folder))
        if found is not None:
            assert (found.layout, outline_of(found)) == (opened.layout, expected)
    trial.finish("manifest", share=2)


def test_damaged_configs(make_hf):
    chance = random.Random("config")
    folder = make_hf()
    file = folder / "config.json"
    sound, expected = file.read_bytes(), outline_of(open_whole_tensors(folder))
    trial = Trial(folder.parent, file)
    for _ in range(COUNTS["config"]):
        found = trial.run(damaged_text(sound, chance), lambda: open_whole_tensors(folder))
        if found is not None:
            # A config that fits the tensors: heads and rotary numbers may be others, shapes may not.
            assert outline_of(found) == expected
            assert {row.name for row in parameter_table(found.spec)} == set(expected)
    trial.finish("config")
