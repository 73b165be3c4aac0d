"""The manifest: round trip for every layout, strict reading, sizes, layouts and the reshard command."""

import json
import re
import shlex

import pytest
from qvl_core.errors import WeightsError
from qvl_core.layout import Layout
from qvl_core.specs import to_hf_config
from qvl_core.specs.load import CONFIG_NAME
from qvl_core.weights.manifest import MANIFEST_NAME, build_manifest, rank_file_name, write_manifest
from qvl_core.weights.manifest_reader import check_manifest_layout, read_manifest, reshard_command, resharded_folder
from qvl_core.weights.safetensors_header import read_header
from qvl_core.weights.safetensors_writer import write_safetensors
from qvl_core.weights.sharded_folder import open_sharded_folder, verify_checksums
from qvl_core.weights.tensor_io import tensor_from_array

LAYOUTS = [
    Layout(vision_stages=(4,), text_stages=(4,)),
    Layout(vision_stages=(4,), text_stages=(4,), tp=2),
    Layout(vision_stages=(4, 0), text_stages=(1, 3), pp=2),
    Layout(vision_stages=(2, 2, 0), text_stages=(0, 1, 3), pp=3, tp=2),
]


def refused(folder) -> str:
    with pytest.raises(WeightsError) as caught:
        open_sharded_folder(folder)
    return str(caught.value)


def edit(folder, change):
    path = folder / MANIFEST_NAME
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_sharded_folder_opens_with_every_layout(make_sharded, spec, arrays, layout):
    folder = open_sharded_folder(make_sharded(layout))
    assert folder.manifest.spec == spec
    assert folder.manifest.layout == layout
    assert (folder.manifest.dtype, folder.manifest.tied, folder.manifest.source_revision) == ("F32", True, "test")
    assert set(folder.manifest.tensors) == set(arrays)
    assert len(folder.ranks) == layout.pp * layout.tp
    for pp, tp in folder.ranks:
        verify_checksums(folder, pp, tp)


def test_rank_file_names_are_the_documented_ones():
    assert rank_file_name(0, 0) == "rank-pp000-tt000.safetensors"
    assert rank_file_name(12, 3) == "rank-pp012-tt003.safetensors"


def test_mixed_dtypes_are_recorded_as_mixed(tmp_path, spec, arrays):
    kinds = {name: ("BF16" if i % 2 else "F32") for i, name in enumerate(arrays)}
    file = write_safetensors(
        tmp_path / rank_file_name(0, 0), [tensor_from_array(name, array, kinds[name]) for name, array in arrays.items()]
    )
    manifest = build_manifest(spec, Layout.single(spec), {file.file.name: file}, kinds, source_revision="")
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert manifest.dtype == "mixed"


def test_a_folder_without_a_manifest_is_no_checkpoint(make_sharded):
    folder = make_sharded()
    (folder / MANIFEST_NAME).unlink()
    assert "interrupted" in refused(folder)


def test_a_newer_version_is_refused_with_the_upgrade(make_sharded):
    folder = make_sharded()
    edit(folder, lambda value: value.update(format_version=3))
    text = refused(folder)
    assert "is 3; this qvl-core reads versions up to 2" in text
    assert "pip install -U qvl-core" in text


def _first(table):
    return table[min(table)]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda v: v.update(format="x"), "format"),
        (lambda v: v.update(format_version="1"), "format_version"),
        (lambda v: v.pop("dtype"), "dtype"),
        (lambda v: v.update(surprise=1), "surprise"),
        (lambda v: v.update(spec=3), "spec"),
        (lambda v: v["spec"]["config"].update(hidden_size="x"), "hidden_size"),
        (lambda v: v.update(layout={}), "layout"),
        (lambda v: v["layout"].update(tp=0), "layout.tp"),
        (lambda v: v["layout"].update(pp="1"), "layout.pp"),
        (lambda v: v["layout"].update(pp=1.0), "layout.pp"),
        (lambda v: v["layout"].update(pp=2), "layout.vision_stages"),
        (lambda v: v["layout"].update(text_stages=[3]), "layout.text_stages"),
        (lambda v: v["layout"].update(text_stages=[True]), "layout.text_stages"),
        (lambda v: v.update(tied=False), "tied"),
        (lambda v: v["tensors"].pop("model.norm.weight"), "tensors.model.norm.weight"),
        (lambda v: v["tensors"].update(extra=_first(v["tensors"])), "tensors.extra"),
        (lambda v: v["tensors"]["model.norm.weight"].update(shape=[63]), "tensors.model.norm.weight"),
        (lambda v: v["tensors"]["model.norm.weight"].update(dtype="I8"), "tensors.model.norm.weight"),
        (lambda v: v["tensors"]["model.norm.weight"].update(parts={}), "tensors.model.norm.weight.parts"),
        (
            lambda v: v["tensors"]["model.norm.weight"]["parts"].update({rank_file_name(0, 0): "x"}),
            "tensors.model.norm",
        ),
        (lambda v: v["files"].clear(), "files.rank-pp000-tt000.safetensors"),
        (lambda v: v["files"].update({"../x": {"size": 1, "checksum": None}}), "files.../x"),
        (lambda v: v["files"].update({"x": {"size": -1, "checksum": None}}), "files.x"),
        (lambda v: v["files"].update({"x": {"size": 1, "checksum": "md5:0"}}), "files.x"),
        (lambda v: v.update(files=[]), "files"),
        (lambda v: v.update(source_revision=3), "source_revision"),
    ],
)
def test_a_damaged_manifest_is_refused_by_key(make_sharded, change, key):
    folder = make_sharded()
    edit(folder, change)
    assert f": {key}" in refused(folder)


def test_listed_files_have_to_be_there_with_their_size(make_sharded):
    folder = make_sharded(LAYOUTS[1])
    path = folder / rank_file_name(0, 1)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert f"has {len(content) - 1:,} bytes, the manifest says {len(content):,}" in refused(folder)
    path.unlink()
    assert "is listed in the manifest and not there" in refused(folder)
    path.mkdir()
    assert "not a regular file" in refused(folder)
    path.rmdir()
    path.write_bytes(content)
    open_sharded_folder(folder)


def test_a_rank_file_of_another_rank_is_refused(make_sharded):
    folder = make_sharded(LAYOUTS[2])
    files = [folder / rank_file_name(pp, 0) for pp in (0, 1)]
    contents = [file.read_bytes() for file in files]
    for file, content in zip(files, reversed(contents), strict=True):
        file.write_bytes(content)
    sizes = {file.name: {"size": file.stat().st_size, "checksum": None} for file in files}
    edit(folder, lambda value: value.update(files=sizes))
    assert "is missing from this rank's file" in refused(folder)


def test_a_flipped_bit_is_found_with_the_tensors_name(make_sharded):
    path = make_sharded(LAYOUTS[1])
    file = path / rank_file_name(0, 1)
    entry = read_header(file).tensors["model.layers.2.mlp.down_proj.weight"]
    content = bytearray(file.read_bytes())
    content[entry.start + 11] ^= 4
    file.write_bytes(content)
    folder = open_sharded_folder(path)
    verify_checksums(folder, 0, 0)
    with pytest.raises(WeightsError, match=r"model\.layers\.2\.mlp\.down_proj\.weight\n  is damaged"):
        verify_checksums(folder, 0, 1)


def test_a_config_beside_the_manifest_may_have_another_context_length_and_nothing_else(make_sharded, spec):
    path, config = make_sharded(), to_hf_config(spec)
    (path / CONFIG_NAME).write_text(json.dumps({**config, "max_position_embeddings": 12345}))
    open_sharded_folder(path)
    (path / CONFIG_NAME).write_text(json.dumps({**config, "rope_theta": 12345.0}))
    with pytest.raises(WeightsError, match=r"describe two models:\n  text\.rope_theta"):
        open_sharded_folder(path)


def test_another_layout_gives_the_reshard_command(make_sharded):
    path = make_sharded()
    manifest = read_manifest(path)
    wanted = Layout(vision_stages=(4, 0), text_stages=(1, 3), pp=2, dp=4)
    (problem,) = check_manifest_layout(manifest, wanted, folder=path)
    assert "pp is 1 in the folder, 2 in the recipe" in problem.message
    assert problem.fix == (
        f"qvl convert reshard --sharded {path} --out {path}-tp1-pp2 --tp 1 --pp 2 --vision-stages 4,0 --text-stages 1,3"
    )


def test_the_reshard_command_survives_a_shell(tmp_path):
    command = shlex.split(reshard_command(tmp_path / "a b;c", LAYOUTS[0]))
    assert command[4] == str(tmp_path / "a b;c")
    assert command[6] == resharded_folder(tmp_path / "a b;c", LAYOUTS[0])


def test_the_same_layout_is_fine_whatever_dp_is(make_sharded):
    path = make_sharded()
    layout = Layout(vision_stages=(4,), text_stages=(4,), dp=8)
    assert check_manifest_layout(read_manifest(path), layout, folder=path) == ()


def test_checksums_name_their_algorithm(make_sharded):
    value = json.loads((make_sharded() / MANIFEST_NAME).read_text())
    parts = value["tensors"]["model.norm.weight"]["parts"]
    assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", checksum) for checksum in parts.values())
