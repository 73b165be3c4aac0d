"""Random folders against what their values have to become; bash judges that the scripts say what was meant."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from generated_answers import generate_answers
from generated_folders import Generated, generate
from qvl_core.cli.app import main
from qvl_core.migrate.migration import migrate, write
from qvl_core.recipe import load_recipe

SEEDS = range(60)


def _made(folder: Path, seed: int) -> list[Generated]:
    return generate(folder / "stack", seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_value_is_the_one_that_was_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = _made(tmp_path, seed)
    found = migrate(tmp_path / "stack", Path("out"))
    assert not found.broken
    recipes = {one.name: one for one in found.made}
    assert set(recipes) == {f"{one.size}_sft" for one in sizes}
    for one in sizes:
        recipe = recipes[f"{one.size}_sft"]
        assert recipe.problems == ()
        values = {row.key: row.value for row in recipe.values}
        wrong = {key: (values.get(key), value) for key, value in one.expected.items() if values.get(key) != value}
        assert wrong == {}
        # Assigned, but never exported: the program did not see it.
        assert "env.GLOG_v" not in values
        unknown = {row.said for row in found.ledger.left if row.fate == "unknown"}
        assert {name for name in one.strange if not any(said.startswith(name) for said in unknown)} == set()


@pytest.mark.parametrize("seed", SEEDS)
def test_every_place_is_a_line_that_names_its_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.chdir(tmp_path)
    _made(tmp_path, seed)
    found = migrate(tmp_path / "stack", Path("out"))
    for row in (row for one in found.made for row in one.values if row.where):
        file, _, number = row.where.rpartition(":")
        # A line may go on behind a backslash; an option's value may stand where its variable is assigned.
        lines = (tmp_path / "stack" / file).read_text(encoding="utf-8-sig").split("\n")
        near = "\n".join(lines[int(number) - 1 : int(number) + 1])
        names = [row.said.rpartition(".")[2].lstrip("-").replace("-", "[-_]")]
        assert re.search("|".join([*names, r"[A-Z_]+="]), near), (row, near)


@pytest.mark.parametrize("seed", SEEDS[::3])
def test_what_is_written_passes_the_check_and_reads_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = _made(tmp_path, seed)
    write(migrate(tmp_path / "stack", Path("out")), tmp_path / "out", {})
    for one in sizes:
        path = tmp_path / "out" / f"{one.size}_sft.toml"
        assert main(["check", str(path)]) == 0, capsys.readouterr()
        recipe = load_recipe(path)
        assert recipe.train is not None
        assert recipe.train.steps == one.expected["train.steps"]
        assert list(recipe.parallel.text_stages) == one.expected["layout.text_stages"]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.skipif(shutil.which("bash") is None, reason="bash, the judge of shell scripts, is not here")
def test_bash_reads_the_scripts_as_they_were_meant(tmp_path: Path, seed: int) -> None:
    for one in _made(tmp_path, seed):
        path = tmp_path / "stack" / one.script
        if one.comments_in_quotes or b"\r" in path.read_bytes():
            # bash passes such comments on as arguments, and takes a carriage return as a part of the value.
            continue
        # Run in the folder above, as the reference is: what is sourced lies under several names.
        for place in (".", "examples"):
            (tmp_path / place).mkdir(exist_ok=True)
            for file in (tmp_path / "stack").glob("*.inc"):
                shutil.copy(file, tmp_path / place)
        stub = 'msrun() { printf "%s\\0" "$@"; }; chmod() { :; }; tee() { cat; }\n'
        program = stub + path.read_text(encoding="utf-8")
        environment = {"PATH": "/usr/bin:/bin", "HERE": str(tmp_path)}
        done = subprocess.run(
            ["bash", "-c", program], cwd=tmp_path, env=environment, capture_output=True, check=True, timeout=600
        )
        words = done.stdout.decode().split("\0")
        joined = [word.replace("=", " ", 1) if word.startswith("--") else word for word in words]
        said = dict(re.findall(r"--(\S+) (?!--)(\S+)", " ".join(joined)))
        assert said["tensor-model-parallel-size"] == str(one.expected["layout.tp"])
        assert said["global-batch-size"] == str(one.expected["train.global_batch"])
        assert said["train-iters"] == str(one.expected["train.steps"])
        assert float(said["lr"]) == one.expected["train.optimizer.lr"]
        assert words[words.index("--save") + 1] == f"./{one.expected['output.dir']}"


@pytest.mark.parametrize("seed", SEEDS)
def test_answering_recipes_hold_what_was_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.chdir(tmp_path)
    answers = generate_answers(tmp_path / "stack", seed)
    found = migrate(tmp_path / "stack", Path("out"))
    for task, expected in (("infer", answers.infer), ("eval", answers.eval)):
        (recipe,) = [one for one in found.made if one.name == f"{answers.size}_{task}"]
        assert recipe.problems == ()
        values = {row.key: row.value for row in recipe.values}
        assert {key: (values.get(key), value) for key, value in expected.items() if values.get(key) != value} == {}
    assert not found.ledger.contradictions
    write(found, tmp_path / "out", {})
    assert main(["check", *map(str, sorted((tmp_path / "out").glob("*.toml")))]) == 0
