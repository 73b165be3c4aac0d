"""`qvl convert` driven by the shipped recipes: the recipe's weights and layout, with `--set` on top."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from qvl_core.cli.app import main
from qvl_core.layout import Layout
from qvl_core.params import parameter_table
from qvl_core.specs import load_spec
from qvl_core.weights.hf_writer import write_hf_folder
from qvl_core.weights.manifest_reader import read_manifest
from qvl_core.weights.tensor_io import tensor_from_array

ROOT = Path(__file__).parents[1]
RECIPES = ("tiny_sft", "tiny_eval", "tiny_infer")
TINY = load_spec("qwen2.5-vl-tiny")


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an HF folder of the tiny model with random weights."""
    folder = tmp_path_factory.mktemp("tiny") / "hf"
    random = np.random.default_rng(0)
    tensors = [
        tensor_from_array(row.name, random.standard_normal(row.shape, np.float32)) for row in parameter_table(TINY)
    ]
    write_hf_folder(tensors, ROOT / "recipes" / "tiny" / "checkpoint", folder)
    return folder


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["convert", *map(str, words)])
    found = capsys.readouterr()
    return code, found.out, found.err


@pytest.fixture
def source(hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Link the folder into an empty place, and work in the repository as its recipes expect."""
    monkeypatch.chdir(ROOT)
    shutil.copytree(hf, tmp_path / "hf", copy_function=os.link)
    return tmp_path / "hf"


@pytest.mark.parametrize("recipe", RECIPES)
def test_import_takes_weights_and_layout_of_the_recipe(recipe: str, source: Path, capsys) -> None:
    code, out, err = call(capsys, "import", f"recipes/{recipe}.toml", "--set", f"weights.source={source}")
    assert code == 0, err
    target = source.with_name("hf-tp1-pp1")
    assert str(target) in out
    assert read_manifest(target).layout == Layout.single(TINY)
    assert (target / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    assert call(capsys, "verify", source, target)[0] == 0


def test_settings_change_the_layout_and_out_the_place(source: Path, tmp_path: Path, capsys) -> None:
    settings = ("--set", f"weights.source={source}", "--set", "layout.pp=2", "--set", "layout.tp=2")
    words = ("import", "recipes/tiny_sft.toml", *settings, "--out", tmp_path / "out", "--json")
    code, out, err = call(capsys, *words)
    assert code == 0, err
    assert json.loads(out)["files"] == 4
    layout = read_manifest(tmp_path / "out").layout
    assert (layout.tp, layout.pp) == (2, 2)


def test_reshard_takes_the_layout_of_the_recipe(source: Path, tmp_path: Path, capsys) -> None:
    recipe = "recipes/tiny_sft.toml"
    assert call(capsys, "import", "--hf", source, "--out", tmp_path / "cut", "--tp", 2)[0] == 0
    staged = ("--set", "layout.pp=2")
    # The folder is the recipe's, or one that is given.
    code, _, err = call(capsys, "reshard", recipe, *staged, "--set", f"weights.source={tmp_path / 'cut'}")
    assert code == 0, err
    words = ("reshard", recipe, *staged, "--sharded", tmp_path / "cut", "--out", tmp_path / "other")
    code, _, err = call(capsys, *words)
    assert code == 0, err
    found = [read_manifest(tmp_path / name) for name in ("cut-tp1-pp2", "other")]
    assert found[0] == found[1]
    assert found[0].layout.pp == 2
    assert call(capsys, "verify", source, tmp_path / "other")[0] == 0


def test_a_recipe_that_does_not_fit_is_refused(source: Path, tmp_path: Path, capsys) -> None:
    recipe, given = "recipes/tiny_sft.toml", ("--set", f"weights.source={source}")
    assert call(capsys, "import", "--hf", source, "--out", tmp_path / "cut")[0] == 0
    before = sorted(path.name for path in tmp_path.iterdir())
    cut = ("--set", f"weights.source={tmp_path / 'cut'}")
    for words, message in (
        (("import", recipe, *given, "--tp", 2), "--tp\n  has no place here: the recipe states the layout"),
        (("reshard", recipe, *cut, "--pp", 2), "--pp\n  has no place here: the recipe states the layout"),
        (("reshard", recipe, *given), "is an HF folder, not a sharded one"),
        (("import", recipe, *cut), "is a sharded folder, not an HF one"),
        (("import", recipe, "--set", f"weights.source={tmp_path / 'absent'}"), "does not exist"),
        (("import", recipe, *given, "--set", "model.name=qwen2.5-vl-7b"), "weights.source"),
        (("reshard", "recipes/7b_sft.toml", "--sharded", tmp_path / "cut"), "the recipe's model is qwen2.5-vl-7b"),
        (("import", recipe, *given, "--set", "layout.tp=3"), "layout.tp"),
        (("import", "recipes/absent.toml"), "absent.toml"),
    ):
        code, out, err = call(capsys, *words)
        assert (code, out) == (2, ""), words
        assert message in err, words
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_the_installed_command_finds_convert(source: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "qvl_core.cli", "convert", "verify", str(source), str(source), "--json"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["equal"] is True
