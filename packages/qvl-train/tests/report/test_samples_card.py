"""Records and answers on the page: bounded, from wherever the run was started, and never in the way of the numbers."""

from __future__ import annotations

import copy
import hashlib
import io
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from qvl_core.errors import DataError, NotInstalledError, Problem
from qvl_data.inspection.picture_room import PictureRoom
from qvl_train.report import question_pictures, samples_card
from qvl_train.report.run_history import open_runs
from qvl_train.report.run_page import page_body
from qvl_train.report.samples_card import SamplesCards
from qvl_train.report.training_answers import answered_questions, evaluated_steps, spread
from run_folders import HOSTILE, record, rows, write_run
from video_files import save_video


def write_records(folder: Path, count: int, answer: str = "it is") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (400, 300), (200, 10, 10)).save(folder / "a.png")
    content = [
        {
            "image": "a.png",
            "conversations": [
                {"from": "human", "value": f"<image>Question {number}?"},
                {"from": "gpt", "value": f"{answer} {number}"},
            ],
        }
        for number in range(count)
    ]
    (folder / "train.json").write_text(json.dumps(content), encoding="utf-8")


def body(folder: Path, *sources: Any, **others: Any) -> str:
    content = record(**others)
    content["recipe"] = copy.deepcopy(content["recipe"])
    content["recipe"]["data"]["sources"] = list(sources)
    write_run(folder, rows([1, 2]), content=content)
    return page_body(open_runs([folder]), samples=SamplesCards())


def source(path: str | Path, **others: Any) -> dict[str, Any]:
    return {"path": str(path), "format": "llava", "media_root": "", "allow_outside_media_root": False, **others}


def write_answers(folder: Path, step: int, answers: Iterable[dict[str, Any] | str]) -> None:
    place = folder / "evaluations"
    place.mkdir(parents=True, exist_ok=True)
    lines = [one if isinstance(one, str) else json.dumps(one) for one in answers]
    (place / f"step_{step:06d}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def answered(index: int, text: str, score: float | None = 1.0) -> dict[str, Any]:
    return {"index": str(index), "question": f"Question {index}?", "answer": "9", "prediction": text, "score": score}


def test_shows_a_handful_of_records_with_their_pictures(tmp_path: Path) -> None:
    write_records(tmp_path / "data", 500)
    page = body(tmp_path / "run", source(tmp_path / "data" / "train.json"))
    assert page.count('<article class="example">') == 6
    assert page.count("data:image/jpeg;base64,") == 6
    assert "[image]Question 0?" in page
    assert "it is 5" in page
    # Pictures are shrunk: a page of a hundred photographs' worth is no page.
    assert len(page) < 100_000


def test_sources_share_the_room(tmp_path: Path) -> None:
    write_records(tmp_path / "a", 50, "first source")
    write_records(tmp_path / "b", 50, "second source")
    page = body(tmp_path / "run", source(tmp_path / "a" / "train.json"), source(tmp_path / "b" / "train.json"))
    assert page.count("first source") == page.count("second source") == 3


def test_paths_start_from_where_the_run_was_started(tmp_path: Path) -> None:
    write_records(tmp_path / "there" / "data", 1)
    page = body(tmp_path / "run", source("data/train.json"), machine={"directory": str(tmp_path / "there")})
    assert "it is 0" in page
    # As the recipe names it, and nothing of this machine.
    assert '<div class="where">data/train.json:1</div>' in page


@pytest.mark.parametrize(
    "wrong",
    [
        source("/nowhere/train.json"),
        source("x\0y"),
        {"path": 7},
        {"path": "x", "format": "magic"},
        source("train.json", tags={"messages": 7}),
        source(HOSTILE),
    ],
)
def test_records_that_cannot_be_read_cost_a_sentence(tmp_path: Path, wrong: dict[str, Any]) -> None:
    page = body(tmp_path / "run", wrong)
    assert "cannot be shown: " in page
    assert "<h2>Loss</h2>" in page
    assert "<img src=x" not in page


@pytest.mark.parametrize("text", ["", "{", "[", "[1, 2]", "\x00\x01", '[{"conversations": 3}]'])
def test_files_that_are_no_records_cost_no_more(tmp_path: Path, text: str) -> None:
    (tmp_path / "train.json").write_text(text, encoding="utf-8")
    assert "<h2>Loss</h2>" in body(tmp_path / "run", source(tmp_path / "train.json"))


def test_a_picture_that_is_gone_and_one_outside_the_media_root_are_named(tmp_path: Path) -> None:
    write_records(tmp_path / "data", 1)
    (tmp_path / "data" / "a.png").unlink()
    page = body(tmp_path / "run", source(tmp_path / "data" / "train.json"))
    assert 'class="gone">a.png: ' in page
    write_records(tmp_path / "data", 1)
    (tmp_path / "other").mkdir()
    (tmp_path / "data" / "a.png").rename(tmp_path / "other" / "a.png")
    (tmp_path / "data" / "a.png").symlink_to(tmp_path / "other" / "a.png")
    assert "data:image" not in body(tmp_path / "run2", source(tmp_path / "data" / "train.json"))


def test_nothing_of_records_is_on_a_page_that_shall_have_none(tmp_path: Path) -> None:
    write_records(tmp_path / "data", 3)
    body(tmp_path / "run", source(tmp_path / "data" / "train.json"))
    write_answers(tmp_path / "run", 10, [answered(1, "said")])
    page = page_body(open_runs([tmp_path / "run"]))
    assert "it is 0" not in page
    assert "said" not in page


def test_answers_stand_beside_each_other_by_step(tmp_path: Path) -> None:
    write_run(tmp_path, rows([1, 2]), content=record())
    write_answers(tmp_path, 10, [answered(1, "4", 0.0), answered(2, HOSTILE, 0.0)])
    write_answers(tmp_path, 20, [answered(1, "9"), answered(2, "", 0.5)])
    page = page_body(open_runs([tmp_path]), samples=SamplesCards())
    assert "<h2>Answers during training</h2>" in page
    assert page.index("step 10") < page.index("step 20")
    assert '<span title="scored 0.5"><span class="verdict-bad">✗</span> nothing</span>' in page
    assert '<span title="right"><span class="verdict-good">✓</span> 9</span>' in page
    assert "<img src=x" not in page


def test_wrong_and_right_ones_are_chosen_and_few_steps(tmp_path: Path) -> None:
    for step in range(10, 210, 10):
        write_answers(tmp_path, step, [answered(n, "x", float(n % 10 != 0)) for n in range(100)])
    steps = spread(evaluated_steps(tmp_path))
    assert steps == [10, 50, 90, 120, 160, 200]
    found = answered_questions(tmp_path, steps, most=8)
    assert [one.index for one in found] == ["0", "1", "2", "3", "4", "10", "20", "30"]
    assert all(len(one.answers) == 6 for one in found)


def test_lines_and_files_that_are_none_are_passed_over(tmp_path: Path) -> None:
    broken = ["{", "[]", "7", '{"index": null}', '{"index": "5", "prediction": 7, "score": true}']
    write_answers(tmp_path, 10, broken)
    (tmp_path / "evaluations" / "notes.txt").write_text("x")
    (tmp_path / "evaluations" / "step_000020.jsonl").mkdir()
    assert evaluated_steps(tmp_path) == [10, 20]
    (found,) = answered_questions(tmp_path, [10], most=8)
    assert (found.index, found.answers[10].text, found.answers[10].score) == ("5", "7", None)
    write_run(tmp_path, rows([1]), content=record())
    assert page_body(open_runs([tmp_path]), samples=SamplesCards())


def test_a_half_written_last_file_hides_no_answers(tmp_path: Path) -> None:
    write_run(tmp_path, rows([1]), content=record())
    write_answers(tmp_path, 10, [answered(1, "said early")])
    (tmp_path / "evaluations" / "step_000020.jsonl").write_text('{"index": "1", "ques')
    page = page_body(open_runs([tmp_path]), samples=SamplesCards())
    assert "said early" in page
    assert "After step 20 none of them has an answer that can be read." in page
    (tmp_path / "evaluations" / "step_000010.jsonl").unlink()
    page = page_body(open_runs([tmp_path]), samples=SamplesCards())
    assert "No answer after step 20 can be read." in page


def test_a_folder_of_answers_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> list[int]:
        raise PermissionError(13, "Permission denied")

    write_run(tmp_path, rows([1]), content=record())
    monkeypatch.setattr(samples_card, "evaluated_steps", refuse)
    page = page_body(open_runs([tmp_path]), samples=SamplesCards())
    assert "evaluations/ cannot be read: Permission denied." in page


@pytest.mark.parametrize("score", ["NaN", "Infinity", "-Infinity", "9" * 400])
def test_a_score_that_is_none_is_neither_right_nor_wrong(tmp_path: Path, score: str) -> None:
    write_run(tmp_path, rows([1, 2]), content=record())
    write_answers(tmp_path, 10, [json.dumps(answered(1, "said", 0.5)).replace("0.5", score)])
    page = page_body(open_runs([tmp_path]), samples=SamplesCards())
    assert "<span>said</span>" in page
    assert "verdict-bad" not in page
    assert "verdict-good" not in page


def test_a_watched_page_reads_records_once(tmp_path: Path) -> None:
    write_records(tmp_path / "data", 3)
    body(tmp_path / "run", source(tmp_path / "data" / "train.json"))
    runs, samples = open_runs([tmp_path / "run"]), SamplesCards()
    before = page_body(runs, samples=samples)
    (tmp_path / "data" / "train.json").unlink()
    assert page_body(runs, samples=samples) == before
    write_answers(tmp_path / "run", 10, [answered(1, "new answer")])
    assert "new answer" in page_body(runs, samples=samples)


def test_frames_of_videos_are_on_the_page(tmp_path: Path) -> None:
    save_video(tmp_path / "clip.mp4", frames=5, fps=4)
    turns = [{"from": "human", "value": "<video>What?"}, {"from": "gpt", "value": "moving"}]
    (tmp_path / "train.json").write_text(json.dumps([{"video": "clip.mp4", "conversations": turns}]))
    page = body(tmp_path / "run", source(tmp_path / "train.json"))
    assert page.count("<figcaption>") == 3
    for text in ("0.0 s</figcaption>", "1.0 s</figcaption>", "clip.mp4, 128 × 96, 5 frames"):
        assert text in page


def test_a_changed_file_of_records_is_told(tmp_path: Path) -> None:
    write_records(tmp_path / "data", 1)
    path = str(tmp_path / "data" / "train.json")
    page = body(tmp_path / "run", source(path), files={path: "0" * 64})
    assert "has changed since the run: its records may be others than those that were learned." in page
    assert "it is 0" in page


def png(colour: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 10), (colour, 0, 0)).save(file, "PNG")
    return file.getvalue()


def evaluated(
    folder: Path, monkeypatch: pytest.MonkeyPatch, pictures: Mapping[str, Sequence[bytes]] | Exception
) -> str:
    """Give the page of a run whose rows 1 and 2 were asked about a picture each; `pictures` are the file's now."""
    (folder / "rows.tsv").write_text("a file")
    content = record({"eval.data": "rows.tsv", "eval.compat": "none"}, machine={"directory": str(folder)})
    write_run(folder, rows([1, 2]), content=content)
    lines = [{**answered(n, "9"), "images": [hashlib.sha256(png(n)).hexdigest()]} for n in (1, 2)]
    write_answers(folder, 10, lines)

    def found(path: Path, indexes: Collection[str], *, compat: str) -> Mapping[str, Sequence[bytes]]:
        assert (path, set(indexes), compat) == (folder / "rows.tsv", {"1", "2"}, "none")
        if isinstance(pictures, Exception):
            raise pictures
        return pictures

    monkeypatch.setattr(question_pictures, "benchmark_pictures", found)
    (run,) = open_runs([folder])
    # Without a source of records there are no other pictures.
    run.facts = replace(run.facts, recipe={**run.facts.recipe, "data": {}})
    return page_body([run], samples=SamplesCards())


def test_pictures_stand_beside_the_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = evaluated(tmp_path, monkeypatch, {"1": [png(1)], "2": [png(2)]})
    assert page.count('<img src="data:image/png;base64,') == 2
    assert 'alt="picture"' in page
    assert "cannot be shown" not in page


def test_pictures_that_are_others_now_or_gone_are_told_in_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = evaluated(tmp_path, monkeypatch, {"1": [png(7)]})
    assert "is another one now than the one that was asked about" in page
    assert "the benchmark&#x27;s file has no such row any more" in page
    assert "<img" not in page


def test_what_is_no_picture_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(question_pictures.hashlib, "sha256", lambda data: hashlib.new("sha256", png(1)))
    page = evaluated(tmp_path, monkeypatch, {"1": [b"no picture"], "2": [png(1)] * 5})
    assert "is not a JPEG" in page
    assert page.count("<img") == 2


@pytest.mark.parametrize(
    ("error", "text"),
    [
        # What the reader says may quote the file, which may be anybody's.
        (
            DataError(Problem(where="rows.tsv", message="its first line has: root:x:0:0")),
            "it is no benchmark&#x27;s file, or a damaged one.",
        ),
        (NotInstalledError("qvl-eval is not installed"), "qvl-eval is not installed"),
        (ModuleNotFoundError("No module named 'PIL'", name="PIL"), "the package PIL is not installed"),
        (RuntimeError("root:x:0:0"), "they were not read (RuntimeError)."),
    ],
)
def test_pictures_that_cannot_be_read_cost_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, text: str
) -> None:
    page = evaluated(tmp_path, monkeypatch, error)
    assert "root:x" not in page
    assert f"Pictures of rows.tsv cannot be shown: {text}" in page
    assert "Question 1?" in page


def test_a_benchmark_that_is_gone_is_told(tmp_path: Path) -> None:
    content = record({"eval.data": "rows.tsv"}, machine={"directory": str(tmp_path)})
    write_run(tmp_path, rows([1, 2]), content=content)
    write_answers(tmp_path, 10, [answered(1, "9")])
    assert "Pictures of rows.tsv cannot be shown: there is no such file." in page_body(
        open_runs([tmp_path]), samples=SamplesCards()
    )


@pytest.mark.parametrize("text", ["root:x:0:0:root\nx\n", "index\timage\timage\troot:x\n", "index\timage\n1\troot:x\n"])
def test_nothing_of_a_foreign_file_that_a_folder_names_is_on_the_page(tmp_path: Path, text: str) -> None:
    (tmp_path / "passwd").write_text(text)
    content = record({"eval.data": str(tmp_path / "passwd")}, machine={"directory": str(tmp_path)})
    write_run(tmp_path / "run", rows([1, 2]), content=content)
    write_answers(tmp_path / "run", 10, [answered(1, "9")])
    page = page_body(open_runs([tmp_path / "run"]), samples=SamplesCards())
    assert "root:x" not in page
    assert "it is no benchmark&#x27;s file, or a damaged one." in page


def test_pictures_of_all_runs_of_a_page_share_its_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms: list[int] = []
    monkeypatch.setattr(samples_card, "PictureRoom", lambda limit: rooms.append(limit) or PictureRoom(limit))
    for name in ("a", "b"):
        write_run(tmp_path / name, rows([1]), content=record())
        write_answers(tmp_path / name, 10, [answered(1, "9")])
    page_body(open_runs([tmp_path / "a", tmp_path / "b"]), samples=SamplesCards())
    page_body(open_runs([tmp_path / "a"]), samples=SamplesCards())
    assert rooms[0] == rooms[1] == rooms[2] // 2
