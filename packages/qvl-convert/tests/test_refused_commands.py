"""What the `qvl convert` commands refuse, with which message, and that nothing is changed or lost by it."""

import json

import pytest
from qvl_core.layout import Layout
from qvl_core.weights.manifest_reader import read_manifest

SINGLE = Layout(vision_stages=(2,), text_stages=(3,))
CUT = Layout(vision_stages=(2, 0), text_stages=(1, 2), pp=2, tp=2)

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


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


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
