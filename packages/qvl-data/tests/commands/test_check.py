"""`qvl data check`: exit codes, formats, the page; a mistake is a sentence, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from data_files import llava, save_image, write_records
from page_reader import PageReader
from qvl_core import load_recipe
from qvl_core.cli.boundary import guarded
from qvl_core.errors import DataError
from qvl_core.planner.kept_lengths import find_lengths
from qvl_core.planner.workload import workload_of
from qvl_data.commands import check, register
from recipe_files import write_full_checkpoint, write_recipe


@pytest.fixture(scope="module")
def full_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_full_checkpoint(tmp_path_factory.mktemp("full"))


@pytest.fixture
def recipe(full_checkpoint: Path, tmp_path: Path) -> Path:
    """Give a recipe whose data are good, but for one sample that is dropped."""
    save_image(tmp_path / "a.png")
    records = [llava("<image>What?", "A cat", "a.png"), llava("q", "a"), llava("q", "long " * 300)]
    return write_recipe(tmp_path / "r.toml", full_checkpoint, [write_records(tmp_path / "r.json", records)])


def run(*words: object) -> int:
    app = typer.Typer()
    register(app)
    app.command("other")(lambda: None)
    command = typer.main.get_command(app)

    def action() -> int:
        code = command.main(["data", *map(str, words)], standalone_mode=False)
        return code if isinstance(code, int) else 0

    return guarded(action)


def test_good_data_end_with_zero(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", recipe) == 0
    found = capsys.readouterr()
    assert "clean, 1 warning (3 records, image headers only" in found.out
    assert "the limit is 256: dropped" in found.out
    assert found.err == ""


def test_bad_data_end_with_two(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").unlink()
    assert run("check", recipe) == 2
    out = capsys.readouterr().out
    assert f"{tmp_path}/r.json:2: {tmp_path}/a.png" in out
    assert "1 problem, 1 warning" in out


def test_json_is_one_object(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", recipe, "--format", "json", "--set", 'data.too_long="error"') == 2
    values = json.loads(capsys.readouterr().out)
    assert (values["clean"], values["errors"], values["settings"]["too_long"]) == (False, 1, "error")


@pytest.mark.parametrize("form", ["text", "json"])
def test_wrong_recipe_is_a_report_too(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", tmp_path / "none.toml", "--format", form) == 2
    found = capsys.readouterr()
    assert "does not exist" in found.out
    assert found.err == ""
    if form == "json":
        assert json.loads(found.out)["problems"][0]["kind"] == "recipe"


def test_page_has_the_same_numbers(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out" / "report.html"
    assert run("check", recipe, "--format", "json", "--html", target) == 0
    found = capsys.readouterr()
    values, reader = json.loads(found.out), PageReader(target.read_text(encoding="utf-8"))
    assert f"page written to {target}" in found.err
    assert f"{values['epoch']['tokens']:,} tokens an epoch" in reader.text
    assert "3 records 2 usable, 1 dropped" in reader.text
    # The picture of the first record, among the longest and among the random ones.
    assert reader.count("img") == 2


def test_foreign_file_is_left_and_nothing_is_checked(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", recipe, "--html", recipe) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert "not a page of `qvl data`" in found.err
    assert recipe.read_text().startswith("schema")


def test_decode_and_max_problems(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(path.read_bytes()[:2000])
    assert run("check", recipe) == 0
    assert run("check", recipe, "--decode", "--max-problems", "0") == 2
    out = capsys.readouterr().out
    assert "images decoded" in out
    assert "cannot be decoded" not in out


def test_missing_package_ends_with_three(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers")

    monkeypatch.setattr("qvl_data.inspection.inspect.inspect_recipe", fail)
    assert run("check", recipe) == 3
    assert "pip install" in capsys.readouterr().err
    assert check.not_installed(ModuleNotFoundError("x")).exit_code == 3


def test_lengths_are_kept_for_planning(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", recipe, "--format", "json") == 0
    report = json.loads(capsys.readouterr().out)
    found = find_lengths(load_recipe(str(recipe)))
    assert found.values is not None
    assert str(found.file) == report["kept"]
    assert found.values["per_sample"] == report["per_sample"]
    for part, keys in (("lengths", ("mean", "longest")), ("tokens", ("text", "all"))):
        assert [found.values[part][key] for key in keys] == [report[part][key] for key in keys]
    planned = workload_of(load_recipe(str(recipe)))
    assert (planned.measured, planned.longest) == (True, report["lengths"]["longest"])
    # Two samples, one of them with one image; the answers are what is learned.
    assert report["per_sample"]["looked_at"] == 2
    assert report["per_sample"]["frames"] == 0.5
    assert 0 < report["per_sample"]["labels"] < report["per_sample"]["longest_text"]
    picture = tmp_path / "a.png"
    picture.write_bytes(picture.read_bytes() + b" ")
    assert "a.png has changed" in find_lengths(load_recipe(str(recipe))).note
    picture.write_bytes(picture.read_bytes()[:-1])
    assert find_lengths(load_recipe(str(recipe))).values is not None
    (tmp_path / "r.json").write_text("[]")
    assert "stale" in find_lengths(load_recipe(str(recipe))).note


def test_a_report_is_taken_for_the_settings_it_was_made_with(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("check", recipe, "--format", "json") == 0
    report = tmp_path / "report.json"
    report.write_text(capsys.readouterr().out)
    planned = workload_of(load_recipe(str(recipe)), str(report))
    assert (planned.measured, planned.note) == (True, "")
    with pytest.raises(DataError, match=r"is not the recipe's: image"):
        workload_of(load_recipe(str(recipe), ["data.image.max_pixels=6272"]), str(report))


def test_a_cache_that_cannot_be_written_is_no_mistake(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    assert run("check", recipe, "--set", f"data.cache_dir={tmp_path}/taken") == 0
