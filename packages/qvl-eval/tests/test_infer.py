"""`qvl infer` and an evaluation with a real (random) tiny model."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from qvl_core.cli.app import main
from qvl_core.layout import Layout
from qvl_core.specs import load_spec
from qvl_core.weights.hf_folder import open_hf_folder
from qvl_core.weights.safetensors_header import read_header
from qvl_core.weights.tensor_io import read_tensor
from sharded_folders import write_sharded
from video_files import save_video

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


@pytest.fixture
def cut(weights: Path, tmp_path: Path) -> Path:
    """Give the weights once more, cut for two stages and two tensor ranks."""
    folder = tmp_path / "cut"
    shutil.copytree(weights, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    arrays = {name: read_tensor(entry) for name, entry in open_hf_folder(weights).tensors.items()}
    layout = Layout(tp=2, pp=2, vision_stages=(4, 0), text_stages=(1, 3))
    write_sharded(folder, load_spec(weights), layout, arrays)
    return folder


@needs_mindspore
@pytest.mark.parametrize("more", [(), ("--reshard",)], ids=["plain", "reshard"])
def test_an_evaluation_cuts_sharded_weights_of_another_layout_anew_and_says_so_once(
    write_recipe: WriteRecipe, cut: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    recipe, hf, sharded = write_recipe("eval"), f"output.dir={tmp_path}/hf", f"output.dir={tmp_path}/sharded"
    assert qvl(capsys, "run", recipe, "--set", hf)[0] == 0
    code, _, errors = qvl(capsys, "run", recipe, "--set", sharded, "--set", f"weights.source={cut}", *more)
    assert code == 0, errors
    said = "is cut for tp 2, pp 2 (vision stages 4,0; text stages 1,3); cut anew while loading for tp 1, pp 1"
    assert errors.count(said) == 1
    assert "--reshard" not in errors
    answers = [
        [json.loads(line)["prediction"] for line in (tmp_path / name / "predictions.jsonl").read_text().splitlines()]
        for name in ("hf", "sharded")
    ]
    assert answers[0] == answers[1]
    assert len(answers[0]) == 5


@needs_mindspore
def test_a_flipped_bit_in_any_rank_file_is_told_with_the_tensors_name(
    write_recipe: WriteRecipe, cut: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe("eval")
    for number, file in enumerate(sorted(cut.glob("rank-*"))):
        content = bytearray(file.read_bytes())
        entry = list(read_header(file).tensors.values())[number]
        content[entry.start] ^= 1
        file.write_bytes(content)
        words = ("run", recipe, "--reshard", "--set", f"weights.source={cut}")
        code, _, errors = qvl(capsys, *words)
        assert code == 2
        assert f"{file}: {entry.name}\n  is damaged" in errors
        content[entry.start] ^= 1
        file.write_bytes(content)


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


def test_an_infer_recipe_run_as_a_task_points_to_the_command(
    write_recipe: WriteRecipe, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, errors = qvl(capsys, "run", write_recipe("infer"))
    assert code == 2
    assert "fix: qvl infer" in errors


@needs_mindspore
def test_an_infer_recipe_with_questions_runs_as_a_task(
    write_recipe: WriteRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe("infer")
    code, expected, _ = qvl(capsys, "infer", recipe, "--prompt", "Which?", "--image", PICTURES[0])
    words = ("run", recipe, "--set", 'infer.prompt="Which?"', "--set", f'infer.images=["{PICTURES[0]}"]')
    assert qvl(capsys, *words)[:2] == (code, expected)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Which?"}\n{"prompt": "And?"}\n')
    code, _, errors = qvl(capsys, "run", recipe, "--set", f"infer.input={tmp_path}/prompts.jsonl")
    assert code == 0, errors
    assert len((tmp_path / "run" / "answers.jsonl").read_text().splitlines()) == 2
    code, _, errors = qvl(capsys, *words, "--set", f"infer.input={tmp_path}/prompts.jsonl")
    assert code == 2
    assert "both a prompt and a file" in errors


@needs_mindspore
def test_a_video_is_watched_and_one_that_is_none_is_named(
    write_recipe: WriteRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, good, bad = write_recipe("infer"), save_video(tmp_path / "a.mp4"), tmp_path / "b.mp4"
    words = ("infer", recipe, "--prompt", "What?", "--image", PICTURES[0], "--json")
    code, text, errors = qvl(capsys, *words, "--video", good)
    assert code == 0, errors
    without = json.loads(qvl(capsys, *words)[1])
    answer = json.loads(text)
    assert answer["videos"] == [str(good)]
    assert answer["prompt_tokens"] > without["prompt_tokens"]
    bad.write_text("no video")
    code, _, errors = qvl(capsys, *words, "--video", bad)
    assert code == 2
    assert "b.mp4" in errors
