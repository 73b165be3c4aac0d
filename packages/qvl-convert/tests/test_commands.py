"""The `qvl convert` commands: what they do, what they print and where, exit codes, and what they refuse."""

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

RECIPE = """schema = 1
task = "infer"
model.config = "{config}"
layout.pp = 3
weights.source = "{source}"
launch.device = "cpu"
output.dir = "run"
generation.max_new_tokens = 4
"""

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
def test_export_without_a_config_says_which_flag_gives_one(qvl, make, tmp_path):
    source, out = make.sharded("sharded", CUT), tmp_path / "out"
    (source / "config.json").unlink()
    found = qvl("export", "--sharded", source, "--out", out)
    assert (found.code, out.exists()) == (2, False)
    assert "fix: --hf-files DIR" in found.err
    assert qvl("export", "--sharded", source, "--out", out, "--hf-files", make.side).code == 0


@untied
def test_export_refuses_files_of_another_model(qvl, make, tmp_path):
    source = make.sharded("sharded", SINGLE)
    config = json.loads((make.side / "config.json").read_text())
    (make.side / "config.json").write_text(json.dumps({**config, "rope_theta": 5e5}))
    found = qvl("export", "--sharded", source, "--hf-files", make.side, "--out", tmp_path / "out")
    assert found.code == 2
    assert "text.rope_theta: 1000000.0, found 500000.0" in found.err
    assert not (tmp_path / "out").exists()


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
def test_overwrite_replaces_weights_and_nothing_else(qvl, make, tmp_path, snapshot):
    hf, target = make.hf("hf"), make.sharded("target", CUT)
    before = snapshot(target)
    words = ("import", "--hf", hf, "--out", target, "--tp", 4)
    found = qvl(*words)
    assert found.code == 2
    assert "exists already" in found.err
    assert "--overwrite" in found.err
    assert snapshot(target) == before
    assert qvl(*words, "--overwrite").code == 0
    assert read_manifest(target).layout.tp == 4
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "thesis.txt").write_text("years")
    found = qvl("import", "--hf", hf, "--out", notes, "--overwrite")
    assert found.code == 2
    assert "--overwrite replaces weights folders only" in found.err
    assert names_in(notes) == ["thesis.txt"]
    assert qvl("export", "--sharded", target, "--out", tmp_path / "new", "--overwrite").code == 0


@untied
def test_a_recipe_of_another_model_of_the_same_name_cuts_nothing(qvl, make, tmp_path):
    config = json.loads((make.side / "config.json").read_text())
    for text in (config, config.get("text_config", {})):
        if "num_hidden_layers" in text:
            text["num_hidden_layers"] = 6
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    source, out = make.sharded("sharded", CUT), tmp_path / "out"
    recipe = tmp_path / "recipe.toml"
    for name, code in (("other", 2), ("side", 0)):
        recipe.write_text(RECIPE.format(config=tmp_path / name, source=source))
        found = qvl("reshard", recipe, "--sharded", source, "--out", out)
        assert found.code == code, found.err
        if code:
            assert "text.num_layers: 6, found 3" in found.err
            assert not out.exists()
    assert qvl("verify", source, out).code == 0


@untied
def test_the_source_is_never_a_target(qvl, make, snapshot, tmp_path):
    source = make.sharded("sharded", SINGLE)
    link = tmp_path / "link"
    link.symlink_to(source)
    before = snapshot(source)
    for target in (source, link, source / ".." / "sharded", source / "inner", tmp_path):
        for more in ((), ("--overwrite",)):
            found = qvl("export", "--sharded", source, "--out", target, *more)
            assert (found.code, found.out) == (2, ""), target
    assert snapshot(source) == before


WRONG = {
    "import nothing": (("import", "--out", "OUT"), "needs one of RECIPE, --hf, --mindspeed"),
    "import two": (("import", "--hf", "HF", "--mindspeed", "HF", "--out", "OUT"), "exclude each other"),
    "import recipe and hf": (("import", "x.toml", "--hf", "HF", "--out", "OUT"), "RECIPE and --hf exclude each other"),
    "import without out": (("import", "--hf", "HF"), "--out\n  is needed here"),
    "import hf with hf-files": (("import", "--hf", "HF", "--hf-files", "HF", "--out", "OUT"), "--hf-files"),
    "import hf with naming": (("import", "--hf", "HF", "--out", "OUT", "--naming", "new"), "--naming"),
    "import hf with size": (("import", "--hf", "HF", "--out", "OUT", "--max-shard-gib", "1"), "--max-shard-gib"),
    "import set without recipe": (("import", "--hf", "HF", "--out", "OUT", "--set", "layout.tp=2"), "--set"),
    "mindspeed without hf-files": (("import", "--mindspeed", "HF", "--out", "OUT"), "--hf-files\n  is needed here"),
    "mindspeed with tp": (("import", "--mindspeed", "HF", "--hf-files", "HF", "--out", "OUT", "--tp", "2"), "--tp"),
    "mindspeed with set": (
        ("import", "--mindspeed", "HF", "--hf-files", "HF", "--out", "OUT", "--set", "a=1"),
        "--set",
    ),
    "export nothing": (("export", "--out", "OUT"), "needs one of --sharded, --hf"),
    "export two": (("export", "--sharded", "SHARDED", "--hf", "HF", "--out", "OUT"), "exclude each other"),
    "export nowhere": (("export", "--sharded", "SHARDED"), "needs one of --out, --mindspeed"),
    "export twice": (("export", "--sharded", "SHARDED", "--out", "OUT", "--mindspeed", "OUT"), "exclude each other"),
    "export with layout": (("export", "--sharded", "SHARDED", "--out", "OUT", "--pp", "2"), "--pp"),
    "export mindspeed with naming": (
        ("export", "--sharded", "SHARDED", "--mindspeed", "OUT", "--naming", "new"),
        "--naming",
    ),
    "export mindspeed with files": (
        ("export", "--sharded", "SHARDED", "--mindspeed", "OUT", "--hf-files", "HF"),
        "--hf-files",
    ),
    "reshard without layout": (("reshard", "--sharded", "SHARDED", "--out", "OUT"), "needs the new layout"),
    "reshard without source": (("reshard", "--tp", "2", "--out", "OUT"), "--sharded\n  is needed here"),
    "tp that does not divide": (
        ("import", "--hf", "HF", "--out", "OUT", "--tp", "3"),
        "--tp\n  is 3, which does not divide",
    ),
    "pp of more stages than layers": (("import", "--hf", "HF", "--out", "OUT", "--pp", "6"), "--pp\n  is 6"),
    "stages that do not add up": (
        ("import", "--hf", "HF", "--out", "OUT", "--pp", "2", "--text-stages", "1,1"),
        "--text-stages\n  adds up to 2",
    ),
    "stages of another count": (
        ("import", "--hf", "HF", "--out", "OUT", "--pp", "2", "--text-stages", "1,1,1"),
        "--text-stages",
    ),
    "stages that are no numbers": (
        ("import", "--hf", "HF", "--out", "OUT", "--vision-stages", "a,b"),
        "--vision-stages\n  is 'a,b'",
    ),
    "text before vision": (
        ("import", "--hf", "HF", "--out", "OUT", "--vision-stages", "0,2", "--text-stages", "2,1"),
        "--vision-stages",
    ),
    "a size of nothing": (("export", "--sharded", "SHARDED", "--out", "OUT", "--max-shard-gib", "0"), "max-shard-gib"),
    "a size that is no number": (
        ("export", "--sharded", "SHARDED", "--out", "OUT", "--max-shard-gib", "nan"),
        "max-shard-gib",
    ),
    "an unknown naming": (("export", "--sharded", "SHARDED", "--out", "OUT", "--naming", "old"), "naming"),
    "an unknown flag": (("export", "--shraded", "SHARDED", "--out", "OUT"), "No such option"),
    "tp of zero": (("import", "--hf", "HF", "--out", "OUT", "--tp", "0"), "--tp"),
    "sharded for hf": (("import", "--hf", "SHARDED", "--out", "OUT"), "qvl convert reshard --sharded"),
    "hf for sharded": (("reshard", "--sharded", "HF", "--out", "OUT", "--tp", "2"), "qvl convert import --hf"),
    "export hf for sharded": (("export", "--sharded", "HF", "--out", "OUT"), "is an HF folder, not a sharded one"),
    "export sharded for hf is told how": (
        ("export", "--hf", "SHARDED", "--out", "OUT"),
        "qvl convert export --sharded",
    ),
    "export hf for sharded is told how": (("export", "--sharded", "HF", "--out", "OUT"), "qvl convert export --hf"),
    "sharded base": (
        ("merge", "--base", "SHARDED", "--adapter", "HF", "--out", "OUT"),
        "is a sharded folder, not an HF one",
    ),
    "merge without adapter": (("merge", "--base", "HF", "--out", "OUT"), "--adapter"),
    "no such folder": (("import", "--hf", "ABSENT", "--out", "OUT"), "there is no such folder"),
    "verify of one": (("verify", "HF"), "Missing argument"),
}


@untied
@pytest.mark.parametrize("case", WRONG)
def test_wrong_lines_are_refused_with_a_message_and_nothing_is_written(qvl, make, case, tmp_path, snapshot):
    words, message = WRONG[case]
    places = {"OUT": tmp_path / "out", "ABSENT": tmp_path / "absent"}
    for name, write in (("HF", lambda: make.hf("hf")), ("SHARDED", lambda: make.sharded("sharded", CUT))):
        if name in words:
            places[name] = write()
    before = snapshot(tmp_path)
    found = qvl(*(places.get(word, word) for word in words))
    assert (found.code, found.out) == (2, ""), found.err
    # typer wraps its own messages to the width of the terminal, in a box.
    assert message in found.err
    assert "Traceback" not in found.err
    assert "bug in qvl" not in found.err
    assert snapshot(tmp_path) == before


@untied
def test_the_command_in_a_message_can_be_pasted(qvl, make, tmp_path):
    sharded = make.sharded("my sharded", CUT)
    found = qvl("import", "--hf", sharded, "--out", tmp_path / "out")
    assert f"qvl convert reshard --sharded '{sharded}'" in found.err


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
