"""Bytes that flipped and files that are missing or foreign, in every file of a sharded folder in turn."""

import json
import shutil

import pytest
from qvl_core.specs.load import model_differences
from qvl_core.weights.safetensors_header import read_header
from qvl_core.weights.whole_tensors import open_whole_tensors


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.fixture
def pieces(qvl, shared_small, room):
    """Three stages of two ranks, tied: replicated tensors, and an embedding on the first and the last text stage."""
    made = qvl.run("convert", "import", "--hf", shared_small.hf, "--out", room / "pieces", "--tp", "2", "--pp", "3")
    assert made.code == 0, made.err
    return room / "pieces"


def commands(folder, work):
    yield "convert", "verify", folder, folder
    yield "convert", "export", "--sharded", folder, "--out", work / "out"
    yield "convert", "reshard", "--sharded", folder, "--out", work / "out", "--tp", "4"
    # The same cut again, where every part stays what it is.
    yield "convert", "reshard", "--sharded", folder, "--out", work / "out", "--tp", "2"


def test_a_flipped_bit_in_any_file_is_named_with_its_tensor(qvl, check, pieces, work):
    tried = 0
    for file in sorted(pieces.glob("rank-*")):
        entries = list(read_header(file).tensors.values())
        kept = file.read_bytes()
        for entry in (entries[0], entries[len(entries) // 2], entries[-1]):
            flip(file, (entry.start + entry.stop) // 2)
            verify, *others = commands(pieces, work)
            for command in (verify, others[tried % len(others)]):
                check.refused(qvl.run(*command), 2, f"{file.name}: {entry.name}\n", "is damaged")
            tried += 1
            check.nothing_but(work)
            file.write_bytes(kept)
    assert tried == 18


@pytest.mark.parametrize("name", ["model.norm.weight", "model.embed_tokens.weight"])
def test_a_flipped_bit_in_any_copy_is_found(qvl, check, pieces, work, name):
    holders = [file for file in sorted(pieces.glob("rank-*")) if name in read_header(file).tensors]
    assert len(holders) >= 2
    for file in holders:
        position = read_header(file).tensors[name].stop - 1
        flip(file, position)
        for command in commands(pieces, work):
            check.refused(qvl.run(*command), 2, file.name, name, "is damaged")
        flip(file, position)
    assert qvl.run("convert", "verify", pieces, pieces).code == 0


def test_a_flipped_bit_in_a_header_is_refused_or_changes_no_weights(qvl, check, shared_small, pieces, work):
    file = sorted(pieces.glob("rank-*"))[-1]
    accepted = set()
    header = file.read_bytes()[8 : 8 + int.from_bytes(file.read_bytes()[:8], "little")]
    for position in range(0, 8 + len(header), 97):
        flip(file, position)
        result = qvl.run("convert", "verify", pieces, shared_small.hf)
        if result.code == 0:
            accepted.add(position - 8)
        else:
            check.refused(result, 2, file.name)
        flip(file, position)
    # The metadata, {"format":"pt"}, says nothing about the weights.
    assert all(position < header.index(b"}") for position in accepted)


def test_a_flipped_bit_in_the_manifest_is_refused_or_changes_no_weights(qvl, check, shared_small, pieces, work):
    path = pieces / "manifest.json"
    content = path.read_bytes()
    accepted, sound = [], open_whole_tensors(pieces).spec
    for position in [*range(0, content.index(b'"tensors"'), 97), *range(0, len(content), len(content) // 20)]:
        flip(path, position)
        result = qvl.run("convert", "verify", pieces, shared_small.hf)
        if result.code == 0:
            accepted.append(position)
            assert not model_differences(sound, open_whole_tensors(pieces).spec)
        else:
            check.refused(result, 2)
        flip(path, position)
    # Keys of the config that HF wants and qvl does not read, the name, the limit of the context, and where the weights
    # came from.
    assert all(position < content.index(b'"files"') for position in accepted)


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        ('"rope_theta": 1000000.0', '"rope_theta": 1000000.5', "text.rope_theta"),
        ('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-02', "text.rms_norm_eps"),
        ('"window_size": 8', '"window_size": 9', "vision.window_size"),
        ('"image_token_id": 42', '"image_token_id": 44', "tokens.image"),
    ],
)
def test_a_number_that_shapes_no_tensor_is_compared_with_the_config(qvl, check, pieces, work, before, after, key):
    path = pieces / "manifest.json"
    assert path.read_text().count(before) == 1
    path.write_text(path.read_text().replace(before, after))
    for command in commands(pieces, work):
        check.refused(qvl.run(*command), 2, "manifest.json", "describe two models", key)
    (pieces / "config.json").unlink()
    assert qvl.run("convert", "verify", pieces, pieces).code == 0


def test_missing_extra_and_foreign_files(qvl, check, shared_small, other, pieces, room, work):
    def refused(*words, code=2):
        check.refused(qvl.run("convert", "export", "--sharded", pieces, "--out", work / "out"), code, *words)
        check.nothing_but(work)

    file, manifest = pieces / "rank-pp001-tt001.safetensors", pieces / "manifest.json"
    file.rename(room / "aside")
    refused(file.name, "is listed in the manifest and not there")
    (room / "aside").rename(file)
    kept = manifest.read_text()
    value = json.loads(kept)
    manifest.write_text(json.dumps({**value, "format_version": 3, "news": 1}))
    refused("manifest.json: format_version", "is 3; this qvl-core reads versions up to 2", "pip install -U qvl-core")
    shutil.copy(shared_small.sharded / "manifest.json", manifest)
    refused("rank-pp0")
    assert qvl.run("convert", "import", "--hf", other, "--out", room / "o", "--tp", "2", "--pp", "3").code == 0
    shutil.copy(room / "o" / "manifest.json", manifest)
    refused("rank-pp0")
    # Of a folder of the same sizes: every checksum is another.
    for record in value["tensors"].values():
        record["parts"] = dict.fromkeys(record["parts"], f"sha256:{'0' * 64}")
    manifest.write_text(json.dumps(value))
    refused("is damaged", "the manifest says sha256:000000000000")
    manifest.unlink()
    refused("holds rank files but no manifest.json: its writing was interrupted")
    manifest.write_text(kept)
    # A file that nobody listed is no part of the checkpoint.
    shutil.copy(file, pieces / "rank-pp007-tt000.safetensors")
    assert qvl.run("convert", "export", "--sharded", pieces, "--out", work / "out").code == 0
    assert check.equal(work / "out", shared_small.hf)


def test_side_files_are_carried_as_they_are_and_the_config_has_to_fit(qvl, check, shared_small, pieces, work):
    (pieces / "tokenizer.json").write_text('{"changed": true}')
    assert qvl.run("convert", "export", "--sharded", pieces, "--out", work / "out").code == 0
    assert (work / "out" / "tokenizer.json").read_text() == '{"changed": true}'
    config = json.loads((pieces / "config.json").read_text())
    (pieces / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    check.refused(qvl.run("convert", "export", "--sharded", pieces, "--out", work / "b"), 2, "text.rms_norm_eps", "0.5")
