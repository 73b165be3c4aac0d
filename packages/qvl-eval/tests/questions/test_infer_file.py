"""`qvl infer --input --output` with a real (random) tiny model: order, errors in rows, going on after a kill."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qvl_core.cli.app import main

WriteRecipe = Callable[..., Path]
DIGITS = Path(__file__).resolve().parents[4] / "recipes" / "tiny" / "digits"
needs_mindspore = pytest.mark.skipif(importlib.util.find_spec("mindspore") is None, reason="mindspore is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with two pictures beside the questions."""
    folder = tmp_path / "questions"
    folder.mkdir()
    for number, picture in enumerate(sorted((DIGITS / "images").glob("*.png"))[:2]):
        shutil.copy(picture, folder / f"{number}.png")
    return folder


def write(folder: Path, rows: list[Any]) -> Path:
    path = folder / "prompts.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def infer(recipe: Path, source: Path, output: Path, *more: object) -> int:
    return main([str(word) for word in ("infer", recipe, "--input", source, "--output", output, *more)])


def rows_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


QUESTIONS = [
    {"prompt": "Which?", "images": ["0.png"], "id": "a"},
    {"prompt": "How many pictures are there, and of what?", "images": ["0.png", "1.png"]},
    {"prompt": "你好"},
    {"prompt": "Again?", "system": "Be brief."},
    {"prompt": "Last?", "images": ["1.png"]},
]


@needs_mindspore
def test_answers_come_in_order_and_do_not_depend_on_how_many_are_under_way(
    write_recipe: WriteRecipe, folder: Path, tmp_path: Path
) -> None:
    recipe, source = write_recipe("infer"), write(folder, QUESTIONS)
    outputs = [tmp_path / f"answers{batch}.jsonl" for batch in (1, 4)]
    for batch, output in zip((1, 4), outputs, strict=True):
        assert infer(recipe, source, output, "--batch", batch) == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    rows = rows_of(outputs[0])
    assert [row["index"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in QUESTIONS]
    assert rows[0]["id"] == "a"
    assert all(row["finish"] in ("stop", "length") and 1 <= row["new_tokens"] <= 3 for row in rows)


@needs_mindspore
def test_bad_rows_hold_their_error_and_the_others_are_answered(
    write_recipe: WriteRecipe, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:60])
    bad = {
        "not JSON": '{"prompt": ',
        "there is no such file": {"prompt": "x", "images": ["none.png"]},
        "broken.png": {"prompt": "x", "images": ["broken.png"]},
        "`..` part": {"prompt": "x", "images": ["../0.png"]},
        "is a URL": {"prompt": "x", "images": ["http://127.0.0.1/0.png"]},
        "absolute path out of": {"prompt": "x", "images": ["/etc/passwd"]},
        "unknown keys: 'question'": {"question": "x"},
        "not a text": {"prompt": 3},
        "has no prompt": {"prompt": " "},
        "surrogate": '{"prompt": "\\ud800"}',
        "is int": 7,
        "the key 'prompt' occurs twice": '{"prompt": "a", "prompt": "b"}',
        "Infinity is not a JSON number": '{"prompt": "a", "id": Infinity}',
        "the window holds": {"prompt": "word " * 5000},
    }
    source, output = write(folder, [QUESTIONS[0], *bad.values(), QUESTIONS[2]]), tmp_path / "answers.jsonl"
    assert infer(write_recipe("infer"), source, output) == 2
    rows = rows_of(output)
    assert len(rows) == len(bad) + 2
    for expected, row in zip(bad, rows[1:-1], strict=True):
        assert expected in row["error"], row
    assert "answer" in rows[0]
    assert "answer" in rows[-1]
    errors = capsys.readouterr().err
    assert f"{source}:2" in errors
    assert f"2 of {len(rows)} questions answered" in errors


@needs_mindspore
def test_a_killed_run_goes_on_to_the_same_file(write_recipe: WriteRecipe, folder: Path, tmp_path: Path) -> None:
    recipe, source, output = write_recipe("infer"), write(folder, QUESTIONS), tmp_path / "answers.jsonl"
    assert infer(recipe, source, output) == 0
    whole = output.read_bytes()
    lines = whole.splitlines(keepends=True)
    for left in (b"", b"".join(lines[:2]), b"".join(lines[:2]) + lines[2][:20], whole):
        output.write_bytes(left)
        assert infer(recipe, source, output) == 0
        assert output.read_bytes() == whole


@needs_mindspore
def test_answers_under_other_settings_or_to_other_questions_are_not_mixed(
    write_recipe: WriteRecipe, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, source, output = write_recipe("infer"), write(folder, QUESTIONS), tmp_path / "answers.jsonl"
    assert infer(recipe, source, output) == 0
    before = output.read_bytes()
    assert infer(recipe, source, output, "--set", "generation.max_new_tokens=2") == 2
    write(folder, [{"prompt": "Other?"}, *QUESTIONS[1:]])
    assert infer(recipe, source, output) == 2
    write(folder, QUESTIONS[:2])
    assert infer(recipe, source, output) == 2
    assert output.read_bytes() == before
    errors = capsys.readouterr().err
    assert f"{output}:1" in errors
    assert "holds 5 answers to 2 questions" in errors


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "nothing is asked"),
        (("--prompt", "x", "--input", "a", "--output", "b"), "either --prompt or --input"),
        (("--input", "a"), "go together"),
        (("--input", "none.jsonl", "--output", "b"), "there is no such file"),
        (("--input", "a", "--output", "b", "--image", "c", "--json"), "--image, --json would not be used"),
        (("--prompt", "x", "--media-root", "a"), "--media-root would not be used"),
    ],
)
def test_a_wrong_command_line_ends_with_exit_2(
    write_recipe: WriteRecipe, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], expected: str
) -> None:
    assert main(["infer", str(write_recipe("infer")), *words]) == 2
    assert expected in capsys.readouterr().err


def test_media_of_no_folder_are_told_before_an_answer_is_written(
    write_recipe: WriteRecipe, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "answers.jsonl"
    assert infer(write_recipe("infer"), write(folder, QUESTIONS), output, "--media-root", tmp_path / "none") == 2
    assert f"{tmp_path / 'none'}\n  is no folder" in capsys.readouterr().err
    assert not output.exists()


def test_the_questions_are_never_written_over(write_recipe: WriteRecipe, folder: Path) -> None:
    source = write(folder, QUESTIONS)
    before = source.read_bytes()
    assert infer(write_recipe("infer"), source, source) == 2
    assert source.read_bytes() == before


def test_a_file_of_something_else_is_left_alone(write_recipe: WriteRecipe, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "mine.txt"
    output.write_text("my notes, without a line end")
    assert infer(write_recipe("infer"), write(folder, QUESTIONS), output) == 2
    assert output.read_text() == "my notes, without a line end"


@needs_mindspore
def test_a_question_that_is_asked_twice_is_drawn_twice_whatever_the_batch(
    write_recipe: WriteRecipe, folder: Path, tmp_path: Path
) -> None:
    recipe, source = write_recipe("infer"), write(folder, [{"prompt": "Which?"}] * 6)
    chance = ("generation.temperature=5.0", "generation.top_k=0", "generation.max_new_tokens=3")
    words = [word for setting in chance for word in ("--set", setting)]
    outputs = [tmp_path / f"answers{batch}.jsonl" for batch in (1, 4)]
    for batch, output in zip((1, 4), outputs, strict=True):
        assert infer(recipe, source, output, "--batch", batch, *words) == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    assert len({row["answer"] for row in rows_of(outputs[0])}) > 1


@needs_mindspore
def test_several_prompts_of_the_command_line_are_answered_in_their_order(
    write_recipe: WriteRecipe, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(write_recipe("infer"))
    assert main(["infer", recipe, "-p", "A?", "-p", "B, and longer?", "--json"]) == 0
    together = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["prompt"] for row in together] == ["A?", "B, and longer?"]
    assert main(["infer", recipe, "-p", "B, and longer?", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == together[1]
