"""The `qvl convert` commands: what they do, what they print and where, and exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from qvl_convert import forecast
from qvl_core.layout import Layout
from qvl_core.weights.hf_folder import open_hf_folder, require_tensors
from qvl_core.weights.manifest import rank_file_name
from qvl_core.weights.manifest_reader import read_manifest
from qvl_core.weights.safetensors_writer import write_safetensors
from qvl_core.weights.tensor_io import tensor_from_array

SINGLE = Layout(vision_stages=(2,), text_stages=(3,))
CUT = Layout(vision_stages=(2, 0), text_stages=(1, 2), pp=2, tp=2)
QUERY = "model.layers.0.self_attn.q_proj.weight"
SUMMARY_KEYS = {
    "kind", "out", "layout", "files", "tensors", "bytes_written", "reused_files", "reused_bytes", "seconds",
    "bytes_per_s",
}  # fmt: skip

untied = pytest.mark.parametrize("make", [False], indirect=True, ids=["untied"])


@pytest.fixture(autouse=True)
def small_sample(monkeypatch):
    monkeypatch.setattr(forecast, "SAMPLE_BYTES", forecast._BLOCK)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def one_dtype(make, kind="BF16"):
    make.kinds = dict.fromkeys(make.kinds, kind)
    make.arrays = {name: array.astype(np.uint16) for name, array in make.arrays.items()}


def test_help_lists_the_five_commands(qvl):
    found = qvl("--help")
    assert found.code == 0
    for command in ("import", "export", "reshard", "merge", "verify"):
        assert f" {command} " in found.out
    for command in ("import", "export", "reshard", "merge", "verify"):
        found = qvl(command, "--help")
        assert (found.code, found.err) == (0, "")
        assert "--json" in found.out


def test_import_writes_the_layout(qvl, make, layout, flags_of, tmp_path):
    hf, out = make.hf("hf"), tmp_path / "deep" / "out"
    found = qvl("import", "--hf", hf, "--out", out, *flags_of(layout))
    assert (found.code, found.err) == (0, "")
    assert found.out.startswith(f"wrote {out}: {len(make.arrays)} tensors, ")
    assert read_manifest(out).layout == layout
    assert names_in(out.parent) == ["out"]
    assert qvl("verify", hf, out).code == 0


@untied
def test_stages_that_are_left_out_are_derived_and_shown(qvl, make, tmp_path):
    hf = make.hf("hf")
    assert qvl("import", "--hf", hf, "--out", tmp_path / "a").code == 0
    assert read_manifest(tmp_path / "a").layout == SINGLE
    found = qvl("import", "--hf", hf, "--out", tmp_path / "b", "--pp", 2)
    layout = read_manifest(tmp_path / "b").layout
    assert (layout.pp, layout.vision_stages) == (2, (2, 0))
    assert ",".join(map(str, layout.text_stages)) in found.out
    # The number of stages follows from a list as well.
    assert qvl("import", "--hf", hf, "--out", tmp_path / "c", "--text-stages", "0,1,2").code == 0
    assert read_manifest(tmp_path / "c").layout.pp == 3


@untied
@pytest.mark.parametrize("naming", ["classic", "new"])
def test_export_gives_the_bits_that_were_there(qvl, make, layout, naming, tmp_path):
    source, out = make.sharded("sharded", layout), tmp_path / "out"
    options = ("--naming", naming, "--max-shard-gib", "0.001")
    found = qvl("export", "--sharded", source, "--hf-files", make.side, "--out", out, *options)
    assert found.code == 0, found.err
    folder = open_hf_folder(out)
    assert folder.naming == naming
    require_tensors(folder, make.spec)
    assert names_in(out) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert qvl("verify", make.hf("original"), out).code == 0


@untied
def test_export_of_an_hf_folder_changes_spelling_and_file_size(qvl, make, tmp_path, monkeypatch):
    monkeypatch.setattr("qvl_convert.commands.GIB", 10**7)
    source, out = make.hf("hf"), tmp_path / "out"
    assert qvl("export", "--hf", source, "--out", out, "--naming", "new", "--max-shard-gib", "0.001").code == 0
    assert "model.safetensors.index.json" in names_in(out)
    assert open_hf_folder(out).naming == "new"
    assert qvl("verify", source, out).code == 0


@untied
def test_export_states_the_dtype_of_the_weights(qvl, make, tmp_path):
    config = json.loads((make.side / "config.json").read_text())
    nested = {**config, "torch_dtype": "float32", "vision_config": {**config["vision_config"], "dtype": "float16"}}
    (make.side / "config.json").write_text(json.dumps(nested))
    # Of mixed weights no single dtype is true: the file stays as it was.
    assert qvl("export", "--sharded", make.sharded("mixed", SINGLE), "--out", tmp_path / "same").code == 0
    assert (tmp_path / "same" / "config.json").read_bytes() == (make.side / "config.json").read_bytes()
    one_dtype(make)
    assert qvl("export", "--sharded", make.sharded("single", SINGLE), "--out", tmp_path / "out").code == 0
    found = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (found["torch_dtype"], found["vision_config"]["dtype"]) == ("bfloat16", "bfloat16")
    assert found["hidden_size"] == config["hidden_size"]


@untied
def test_reshard_goes_from_layout_to_layout(qvl, make, layout, flags_of, tmp_path):
    source = make.checkpoint("source", CUT)
    found = qvl("reshard", "--sharded", source, "--out", tmp_path / "out", *flags_of(layout))
    assert found.code == 0, found.err
    assert read_manifest(tmp_path / "out").layout == layout
    assert read_manifest(tmp_path / "out").has_optimizer
    assert qvl("verify", source, tmp_path / "out").code == 0


@untied
@pytest.mark.parametrize("given", ["source", "source/", ".", "../source"])
def test_reshard_has_an_output_by_default(qvl, make, given, monkeypatch, tmp_path):
    source = make.sharded("source", CUT)
    monkeypatch.chdir(tmp_path if given.startswith("source") else source)
    assert qvl("reshard", "--sharded", given, "--tp", 4).code == 0
    assert read_manifest(tmp_path / "source-tp4-pp1").layout.tp == 4


def write_adapter(folder):
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "layers_to_transform": [0]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    module = f"base_model.model.{QUERY.removesuffix('.weight')}"
    shapes = {"lora_A": (2, 32), "lora_B": (32, 2)}
    tensors = [
        tensor_from_array(f"{module}.{name}.weight", np.ones(shape, np.float32)) for name, shape in shapes.items()
    ]
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    return folder


@untied
def test_merge_adds_an_adapter(qvl, make, tmp_path):
    make.arrays[QUERY][:] = 0
    base, adapter = make.hf("base"), write_adapter(tmp_path / "adapter")
    found = qvl("merge", "--base", base, "--adapter", adapter, "--out", tmp_path / "out", "--json")
    assert (found.code, found.err) == (0, "")
    assert set(json.loads(found.out)) > SUMMARY_KEYS
    difference = json.loads(qvl("verify", base, tmp_path / "out", "--json").out)["difference"]
    assert (difference["tensor"], difference["place"]) == (QUERY, [0, 0])
    # Two ones of rank 2, scaled by alpha / r = 2.
    assert (difference["left"].split()[0], difference["right"].split()[0]) == ("0.0", "4.0")


@untied
def test_mindspeed_folders_are_written_and_read(qvl, make, tmp_path):
    one_dtype(make)
    sharded, reference, hf = make.sharded("sharded", CUT), tmp_path / "reference", tmp_path / "hf"
    assert qvl("export", "--sharded", sharded, "--mindspeed", reference).code == 0
    assert len(list(reference.rglob("model_optim_rng.pt"))) == 4
    (next(reference.rglob("model_optim_rng.pt")).parent / "distrib_optim.pt").write_bytes(b"optimizer state")
    found = qvl("import", "--mindspeed", reference, "--hf-files", make.side, "--out", hf, "--json")
    assert found.code == 0, found.err
    summary = json.loads(found.out)
    assert set(summary) == {*SUMMARY_KEYS, "left_out"}
    assert [Path(name).name for name in summary["left_out"]] == ["distrib_optim.pt"]
    assert qvl("verify", sharded, hf).code == 0
    words = ("export", "--hf", hf, "--mindspeed", tmp_path / "other", "--tp", 4)
    assert qvl(*words).code == 0
    assert len(list((tmp_path / "other").rglob("model_optim_rng.pt"))) == 4


@untied
def test_a_flipped_byte_of_a_mindspeed_folder_leaves_no_output(qvl, make, tmp_path):
    one_dtype(make)
    reference = tmp_path / "reference"
    assert qvl("export", "--sharded", make.sharded("sharded", CUT), "--mindspeed", reference).code == 0
    file = sorted(reference.rglob("model_optim_rng.pt"))[1]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    found = qvl("import", "--mindspeed", reference, "--hf-files", make.side, "--out", tmp_path / "hf")
    assert found.code == 2
    assert str(file) in found.err
    assert "is damaged" in found.err
    assert not (tmp_path / "hf").exists()
    assert not list(tmp_path.glob(".hf*"))


def commands_of(make, out):
    """Give a line of each command that writes a folder."""
    hf, sharded = make.hf("hf"), make.sharded("sharded", CUT)
    return {
        "import": ("import", "--hf", hf, "--out", out, "--tp", 2),
        "export": ("export", "--sharded", sharded, "--out", out),
        "reshard": ("reshard", "--sharded", sharded, "--out", out, "--tp", 4),
        "mindspeed": ("export", "--sharded", sharded, "--mindspeed", out),
        "merge": ("merge", "--base", hf, "--adapter", write_adapter(make.root / "adapter"), "--out", out),
    }


COMMANDS = ("import", "export", "reshard", "mindspeed", "merge")


@untied
@pytest.mark.parametrize("command", COMMANDS)
def test_json_is_one_object_on_stdout_and_nothing_else(qvl, make, command, tmp_path, monkeypatch):
    # Progress is for people: a line for every block, on stderr.
    monkeypatch.setattr("qvl_convert.progress.SECONDS_PER_LINE", 0.0)
    one_dtype(make)
    make.arrays[QUERY][:] = 0
    found = qvl(*commands_of(make, tmp_path / "out")[command], "--json")
    assert found.code == 0, found.err
    report = json.loads(found.out)
    assert found.out.count("\n") == 1
    assert set(report) >= SUMMARY_KEYS
    assert (report["out"], report["reused_files"]) == (str(tmp_path / "out"), 0)
    assert report["bytes_written"] == sum(
        path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.suffix in (".safetensors", ".pt")
    )
    assert all(line.startswith("writing: ") and line.endswith(" left") for line in found.err.splitlines())
    assert found.err.count("\n") >= 1


@untied
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_plan_writes_nothing_at_all(qvl, make, command, form, snapshot, tmp_path):
    one_dtype(make)
    make.arrays[QUERY][:] = 0
    words = commands_of(make, tmp_path / "out")[command]
    before = snapshot(tmp_path)
    found = qvl(*words, "--plan", *(["--json"] if form == "json" else []))
    assert (found.code, found.err) == (0, "")
    assert snapshot(tmp_path) == before
    assert qvl(*words).code == 0
    files = {
        str(path.relative_to(tmp_path / "out")): path.stat().st_size
        for path in (tmp_path / "out").rglob("*")
        if path.suffix in (".safetensors", ".pt")
    }
    if form == "json":
        report = json.loads(found.out)
        assert set(report) == {"kind", "out", "layout", "tensors", "reads", "writes", "seconds"}
        assert {one["name"]: one["bytes"] for one in report["writes"]["files"]} == files
        assert report["writes"]["bytes"] == sum(files.values())
        assert report["reads"]["bytes"] == sum(array.nbytes for array in make.arrays.values())
        assert report["seconds"] > 0
    else:
        assert found.out.startswith(f"would write {tmp_path / 'out'} ")
        assert all(name in found.out for name in files)
        assert "measured" in found.out


@untied
def test_a_plan_into_a_folder_that_is_not_there_makes_none(qvl, make, tmp_path, snapshot):
    hf = make.hf("hf")
    before = snapshot(tmp_path)
    assert qvl("import", "--hf", hf, "--out", tmp_path / "a" / "b" / "out", "--plan").code == 0
    assert snapshot(tmp_path) == before


@untied
def test_a_plan_refuses_what_the_work_would_refuse(qvl, make, snapshot, tmp_path):
    hf, sharded = make.hf("hf"), make.sharded("sharded", CUT)
    before = snapshot(tmp_path)
    for out in (sharded, hf, hf / "inner"):
        assert qvl("import", "--hf", hf, "--out", out, "--plan").code == 2
    assert qvl("import", "--hf", hf, "--out", sharded, "--plan", "--overwrite").code == 0
    assert snapshot(tmp_path) == before


@untied
def test_an_interruption_says_what_is_kept(qvl, make, tmp_path, monkeypatch):
    monkeypatch.setattr("qvl_convert.run_job.MOST_THREADS", 1)
    sharded = make.sharded("sharded", SINGLE)
    monkeypatch.setattr(
        "qvl_core.durable.shutil.copyfileobj", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    found = qvl("reshard", "--sharded", sharded, "--out", tmp_path / "out", "--tp", 2)
    assert (found.code, found.out) == (130, "")
    assert f"finished files are kept in {tmp_path / '.out.partial'}; the same command goes on" in found.err
    monkeypatch.undo()
    found = qvl("reshard", "--sharded", sharded, "--out", tmp_path / "out", "--tp", 2)
    assert found.code == 0
    assert "kept 2 files (" in found.out
    assert {path.name for path in (tmp_path / "out").glob("rank-*")} == {rank_file_name(0, 0), rank_file_name(0, 1)}


def test_commands_import_nothing_heavy():
    code = (
        "import sys, qvl_convert.commands; "
        "heavy = {'numpy', 'mindspore', 'torch', 'transformers', 'safetensors'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
