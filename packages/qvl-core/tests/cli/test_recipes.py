"""`qvl recipes` and the header that it reads."""

from __future__ import annotations

from pathlib import Path

from qvl_core.cli.recipe_header import Header, read_header


def test_lists_every_recipe_with_what_it_runs(qvl, folder: Path) -> None:
    result = qvl("recipes", ".")
    assert result.code == 0
    tiny = next(line for line in result.out.splitlines() if line.startswith("tiny "))
    assert tiny.split()[1:8] == ["sft", "tiny", "tp1", "pp1", "dp1", "1", "cpu"]
    assert "cpu-tiny" in tiny
    assert tiny.rstrip().endswith("Teach a tiny model nothing")
    assert "qwen2.5-vl-32b" in result.out


def test_a_recipe_with_problems_is_listed_with_the_way_to_see_them(qvl, folder: Path) -> None:
    (folder / "bad.toml").write_text("schema = 1\n")
    result = qvl("recipes", ".")
    assert result.code == 0
    assert "qvl check bad.toml" in result.out


def test_sizes_are_in_order(qvl, folder: Path) -> None:
    for name in ("3b_sft", "32b_sft"):
        (folder / f"{name}.toml").write_text((folder / "72b.toml").read_text())
    names = [line.split()[0] for line in qvl("recipes", ".").out.splitlines() if line[:1].isdigit()]
    assert names == ["3b_sft", "32b_sft", "72b"]


def test_a_folder_without_recipes_ends_with_2(qvl, folder: Path) -> None:
    assert "holds no *.toml files" in qvl("recipes", "media").err
    result = qvl("recipes")
    assert result.code == 2
    assert "there is no such folder" in result.err


def test_reads_purpose_and_status_from_the_opening_comment(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("# Fine-tune Qwen2.5-VL on\n# digits. Slowly.\n#\n# status   device-verified: once\nschema = 1\n")
    assert read_header(path) == Header(purpose="Fine-tune Qwen2.5-VL on digits", status="device-verified")
    path.write_text("schema = 1\n# Not the header.\n# status simulated\n")
    assert read_header(path) == Header()
    assert read_header(tmp_path / "none.toml") == Header()
