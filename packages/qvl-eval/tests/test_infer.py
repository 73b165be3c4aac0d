"""`qvl infer` and an evaluation with a real (random) tiny model."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from qvl_core.cli.app import main

WriteRecipe = Callable[..., Path]
DIGITS = Path(__file__).resolve().parents[3] / "recipes" / "tiny" / "digits"
PICTURES = sorted((DIGITS / "images").glob("*.png"))[:2]
needs_mindspore = pytest.mark.skipif(importlib.util.find_spec("mindspore") is None, reason="mindspore is not installed")


def qvl(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@needs_mindspore
def test_answers_a_question_about_pictures_the_same_each_time(
    write_recipe: WriteRecipe, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        "infer",
        write_recipe("infer"),
        "--prompt",
        "Which?",
        "--image",
        PICTURES[0],
        "--image",
        PICTURES[1],
        "--json",
    )
    code, first, _ = qvl(capsys, *words)
    assert code == 0
    answer = json.loads(first)
    assert answer["images"] == [str(path) for path in PICTURES]
    assert 1 <= answer["new_tokens"] <= 3
    assert qvl(capsys, *words)[1] == first


@needs_mindspore
def test_a_picture_is_not_needed_and_a_setting_can_be_replaced(
    write_recipe: WriteRecipe, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("infer", write_recipe("eval"), "--prompt", "Which?", "--json", "--set", "generation.max_new_tokens=1")
    code, text, _ = qvl(capsys, *words)
    assert code == 0
    assert json.loads(text)["new_tokens"] == 1


@needs_mindspore
def test_an_evaluation_gives_the_same_answers_whatever_the_batch(
    write_recipe: WriteRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe("eval")
    for batch in (1, 5):
        output = f"output.dir={tmp_path}/batch{batch}"
        code, text, errors = qvl(capsys, "run", recipe, "--set", f"eval.batch={batch}", "--set", output)
        assert code == 0, errors
        assert "chance is 10.0 %" in text
    first, second = ((tmp_path / f"batch{batch}" / "predictions.jsonl").read_bytes() for batch in (1, 5))
    assert first == second


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "no such file"), (b"", "empty"), (b"text", "is not a"), (b"\x89PNG\r\n\x1a\n", "image")],
)
def test_a_bad_picture_ends_with_exit_2_and_its_name(
    write_recipe: WriteRecipe,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    expected: str,
) -> None:
    picture = tmp_path / "picture.png"
    if content is not None:
        picture.write_bytes(content)
    code, _, errors = qvl(capsys, "infer", write_recipe("infer"), "--prompt", "Which?", "--image", picture)
    assert code == 2
    assert "picture.png" in errors
    assert expected in errors


def test_missing_weights_end_with_exit_2(
    write_recipe: WriteRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setting = f"weights.source={tmp_path}/none"
    code, _, errors = qvl(capsys, "infer", write_recipe("infer"), "--prompt", "Which?", "--set", setting)
    assert code == 2
    assert "weights.source" in errors
    assert "fix: train first" in errors


def test_several_processes_end_with_exit_2_and_the_settings_to_type(
    write_recipe: WriteRecipe, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, errors = qvl(capsys, "infer", write_recipe("infer"), "--prompt", "Which?", "--set", "layout.dp=2")
    assert code == 2
    assert "--set layout.dp=1" in errors


def test_an_infer_recipe_run_as_a_task_points_to_the_command(
    write_recipe: WriteRecipe, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, errors = qvl(capsys, "run", write_recipe("infer"))
    assert code == 2
    assert "fix: qvl infer" in errors
