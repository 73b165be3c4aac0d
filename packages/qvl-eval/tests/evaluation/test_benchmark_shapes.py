"""An evaluation of a small file of each benchmark's shape, from file to scores, with a stand-in for the model."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import qvl_eval.evaluation.evaluate as front
from evaluation_process import LOADED, StandIn, prepare_stand_in
from qvl_core.recipe import load_recipe
from qvl_core.tasks import RunOptions
from qvl_eval.answers.job import Piece
from qvl_eval.evaluation import replica
from rich.console import Console


class Answers(StandIn):
    """Answers each row with the text that goes with its index."""

    def __init__(self, texts: dict[str, str]) -> None:
        super().__init__()
        self.texts = texts

    def step(self) -> list[Piece]:
        names, self.left = list(self.left), {}
        return [Piece(job_id=name, text=self.texts[name], new_tokens=1, finish="stop") for name in names]


Evaluate = Callable[..., tuple[dict[str, Any], str, Path]]


@pytest.fixture
def evaluate(write_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """Give the function that evaluates rows of a benchmark, given with their answers; gives scores, output, folder."""

    def evaluate(
        benchmark: str, rules: str, header: Sequence[str], rows: Sequence[tuple[str, ...]], *settings: str
    ) -> tuple[dict[str, Any], str, Path]:
        with (tmp_path / "rows.tsv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, delimiter="\t", lineterminator="\n")
            table.writerows([header, *(row[:-1] for row in rows)])
        texts = {row[header.index("index")]: row[-1] for row in rows}
        monkeypatch.setattr(front, "load_replica", lambda *_, **__: (LOADED, Answers(texts)))
        monkeypatch.setattr(replica, "prepare_row", prepare_stand_in)
        stated = (f"eval.benchmark={benchmark}", f"eval.data={tmp_path / 'rows.tsv'}", f"eval.rules={rules}")
        text = io.StringIO()
        recipe = load_recipe(write_recipe(), [*stated, *settings])
        assert front.evaluate(recipe, RunOptions(), Console(file=text, width=120)) == 0
        return json.loads((tmp_path / "run" / "scores.json").read_text()), text.getvalue(), tmp_path / "run"

    return evaluate


def percents(scores: dict[str, Any], rules: str) -> dict[str, float]:
    return {group["name"]: group["percent"] for group in scores["rule_sets"][rules]["groups"]}


def test_ai2d(evaluate: Evaluate, picture: str) -> None:
    header = ("index", "question", "A", "B", "C", "D", "answer", "category", "abcLabel", "image_path", "image")
    rows = [
        ("100", "Which?", "leaf", "root", "None", "stem", "B", "plants", "True", "d/1.png", picture, "B"),
        ("101", "And?", "leaf", "root", "None", "stem", "C", "plants", "True", "d/1.png", "100", "None"),
        ("83301", "Who?", "", "owl", "fox", "eel", "D", "food web", "False", "d/833.png", picture, "The owl."),
    ]
    scores, text, folder = evaluate("ai2d_test", '["vlmevalkit-2025-09","mindspeed"]', header, rows)
    assert scores["accuracy_percent"] == pytest.approx(200 / 3, abs=1e-3)
    assert percents(scores, "vlmevalkit-2025-09") == {"plants": 100.0, "food web": 0.0}
    assert "is no known version of ai2d_test" in text
    rows_written = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows_written] == ["100", "101", "83301"]
    assert rows_written[0]["images"] == rows_written[1]["images"]
    assert rows_written[2]["options"] == {"B": "owl", "C": "fox", "D": "eel"}


def test_chartqa_in_both_directions_of_its_tolerance(evaluate: Evaluate, picture: str) -> None:
    header = ("index", "question", "answer", "split", "image")
    rows = [
        ("1", "How many?", "10", "test_human", picture, "9.5"),
        ("2", "How many?", "10", "test_human", "1", "12"),
        ("3", "Which?", "Yes", "test_augmented", "2", "yes"),
    ]
    scores, text, _ = evaluate("chartqa_test", '["vlmevalkit-2025-09","mindspeed"]', header, rows)
    assert percents(scores, "vlmevalkit-2025-09") == {"test_human": 50.0, "test_augmented": 100.0}
    # 9.5 against 10 is outside of 5 % of 9.5.
    assert percents(scores, "mindspeed") == {"test_human": 0.0, "test_augmented": 100.0}
    assert scores["differing_rows"] == ["1"]
    assert "differ on 1 rows" in text


def test_docvqa_with_pages_that_rows_share_and_lists_of_references(evaluate: Evaluate, picture: str) -> None:
    header = ("index", "question", "answer", "image")
    rows = [
        ("5", "Who?", "['ITC Limited', 'itc']", picture, "  ITC limited "),
        ("6", "What year?", "['1999']", "5", "1998"),
        ("7", "Where?", "['Ohio']", "6", "Nevada"),
    ]
    scores, _, _ = evaluate("docvqa_val", "vlmevalkit-2025-09", header, rows)
    assert scores["accuracy_percent"] == pytest.approx((100 + 75 + 0) / 3, abs=1e-3)


def test_mmmu_reports_validation_and_scores_open_questions_by_its_own_rules(evaluate: Evaluate, picture: str) -> None:
    header = (
        "index",
        "question",
        "split",
        "A",
        "B",
        "C",
        "answer",
        "question_type",
        "image",
        "category",
        "l2-category",
    )
    both = str([picture, picture])
    choice, free = "multiple-choice", "open"
    rows = [
        ("dev_1", "See <image 1>", "dev", "a", "b", "c", "A", choice, picture, "Science", "Math", "C"),
        ("val_1", "<image 1> or <image 2>?", "validation", "a", "None", "", "B", choice, both, "Science", "Math", "B"),
        ("val_2", "How many?", "validation", "", "", "", "12", free, "dev_1", "Business", "Finance", "It is 12.0"),
        ("val_3", "How many?", "validation", "", "", "", "7", free, "val_2", "Business", "Finance", "So 8"),
    ]
    names = ("vlmevalkit-2026-06+mmmu-official", "vlmevalkit-2026-06", "mmmu-official")
    scores, text, _ = evaluate("mmmu_dev_val", json.dumps(names), header, rows, "eval.prompts=default")
    assert scores["rules"] == names[0]
    headline = scores["rule_sets"][names[0]]["headline"]
    assert (headline["name"], headline["rows"]) == ("validation", 3)
    assert scores["accuracy_percent"] == pytest.approx(200 / 3, abs=1e-3)
    assert "of 3 questions of validation" in text
    assert percents(scores, names[0])["Math"] == 100.0


def test_held_out_questions_of_ones_own(evaluate: Evaluate, picture: str) -> None:
    rows = [("a", picture, "What?", "a cat", "a cat\n"), ("b", "a", "What?", "a dog", "a cat")]
    scores, text, folder = evaluate("held_out", "exact", ("index", "image", "question", "answer"), rows)
    assert (scores["benchmark"], scores["accuracy_percent"], scores["chance_percent"]) == ("held_out", 50.0, None)
    assert "chance" not in text
    assert (folder / "checkpoint_held_out.xlsx").exists()
