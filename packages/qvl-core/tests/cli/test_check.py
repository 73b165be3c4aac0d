"""`qvl check`: exit codes, the three outputs, and weights folders that are there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from qvl_core.specs import load_spec, to_hf_config


def test_a_clean_recipe_ends_with_0_and_says_what_it_runs(qvl, folder: Path) -> None:
    result = qvl("check", "tiny.toml")
    assert result.code == 0
    assert result.out == "tiny.toml: ok (sft of qwen2.5-vl-tiny, tp 1 x pp 1 x dp 1 = 1 cpu process)\n"


def test_weights_and_data_need_not_be_there(qvl, folder: Path) -> None:
    assert qvl("check", "72b.toml").code == 0


def test_all_problems_of_all_files_are_shown_with_line_and_fix(qvl, folder: Path) -> None:
    result = qvl("check", "tiny.toml", "72b.toml", "none.toml", "--set", "layout.pp=3")
    assert result.code == 2
    assert result.err == ""
    assert "layout" in result.out
    assert "none.toml" in result.out
    assert "fix:" in result.out
    assert "3 recipes checked:" in result.out


def test_an_unknown_key_names_its_line_and_the_closest_one(qvl, folder: Path) -> None:
    path = folder / "tiny.toml"
    path.write_text(path.read_text().replace("micro_batch = 2", "micro_batsch = 2"))
    result = qvl("check", "tiny.toml")
    line = next(number for number, text in enumerate(path.read_text().splitlines(), 1) if "batsch" in text)
    assert result.code == 2
    assert f"tiny.toml:{line}: train.micro_batsch" in result.out
    assert "micro_batch" in result.out.replace("micro_batsch", "")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"schema = ", b""])
def test_a_file_that_is_no_recipe_ends_with_2(qvl, folder: Path, content: bytes) -> None:
    (folder / "bad.toml").write_bytes(content)
    result = qvl("check", "bad.toml")
    assert result.code == 2
    assert "bad.toml" in result.out


def test_a_directory_ends_with_2(qvl, folder: Path) -> None:
    assert qvl("check", "media").code == 2


def test_json_output_is_json_for_clean_and_for_wrong_recipes(qvl, folder: Path) -> None:
    clean = json.loads(qvl("check", "tiny.toml", "--format", "json").out)
    assert clean == {"problems": [], "summary": {"files": ["tiny.toml"], "errors": 0, "warnings": 0}}
    wrong = qvl("check", "tiny.toml", "--format", "json", "--set", "train.steps=-1")
    assert wrong.code == 2
    assert json.loads(wrong.out)["problems"][0]["key"] == "train.steps"


def test_github_output_annotates_the_line(qvl, folder: Path) -> None:
    path = folder / "tiny.toml"
    path.write_text(path.read_text().replace("steps = 20", "steps = 0"))
    result = qvl("check", "tiny.toml", "--format", "github")
    assert result.code == 2
    assert result.out.startswith("::error file=tiny.toml,line=")
    assert "title=train.steps::" in result.out


def _weights(folder: Path, name: str, **changes: object) -> None:
    (folder / "weights").mkdir()
    config = json.dumps({**to_hf_config(load_spec(name)), **changes})
    (folder / "weights" / "config.json").write_text(config)


def test_the_config_of_a_weights_folder_that_is_there_has_to_fit(qvl, folder: Path) -> None:
    _weights(folder, "qwen2.5-vl-tiny")
    assert qvl("check", "tiny.toml").code == 0


def test_a_weights_folder_may_have_another_context_length(qvl, folder: Path) -> None:
    _weights(folder, "qwen2.5-vl-tiny", max_position_embeddings=12345)
    assert qvl("check", "tiny.toml").code == 0


def test_a_weights_folder_of_another_model_is_refused_with_the_differences(qvl, folder: Path) -> None:
    _weights(folder, "qwen2.5-vl-3b")
    result = qvl("check", "tiny.toml")
    assert result.code == 2
    assert "tiny.toml:11: weights.source" in result.out
    assert "text.num_layers: 4, found 36" in result.out
    assert 'fix: model.name = "qwen2.5-vl-3b"' in result.out


def test_a_folder_that_was_named_on_the_command_line_is_blamed_there(qvl, folder: Path) -> None:
    _weights(folder, "qwen2.5-vl-3b")
    result = qvl("check", "72b.toml", "--set", "weights.source=weights", "--set", "weights.init=random")
    assert result.code == 2
    assert result.out.startswith("--set weights.source: weights.source\n  weights holds another model")


def test_a_weights_folder_without_tensors_is_refused_unless_they_are_random(qvl, folder: Path) -> None:
    _weights(folder, "qwen2.5-vl-tiny")
    result = qvl("check", "tiny.toml", "--set", "weights.init=checkpoint")
    assert result.code == 2
    assert "weights" in result.out


def test_an_empty_weights_folder_is_refused(qvl, folder: Path) -> None:
    (folder / "weights").mkdir()
    result = qvl("check", "tiny.toml", "--set", "weights.init=checkpoint")
    assert result.code == 2
    assert "is empty" in result.out


def test_weights_that_may_not_be_looked_at_are_a_problem(qvl, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.exists

    def exists(path: Path) -> bool:
        if path.name == "weights":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "exists", exists)
    for command in (["check"], ["run"], ["run", "--dry-run"]):
        result = qvl(*command, "tiny.toml", "--set", "weights.source=weights")
        assert result.code == 2
        assert "weights\n  cannot be read: Permission denied" in result.out + result.err
