"""A report is written again from the folder of an evaluation, and from nothing that is not one."""

from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from qvl_core.cli.app import main
from qvl_core.errors import DataError, OutputError
from qvl_core.run_folder import RunRecord
from qvl_eval.report.run_folder import AskedRows, read_evaluation
from qvl_eval.score.judge import judge
from qvl_eval.score.judged import AnsweredRow
from qvl_eval.score.summary import summarise
from report_cases import Pictures, choice_rows, picture

RULES = ("vlmevalkit-2026-06", "mindspeed")
COLUMNS = ("index", "question", "A", "B", "C", "D", "answer", "category", "image")


def write_tsv(path: Path, rows: Sequence[AnsweredRow], pictures: Pictures) -> str:
    """Write the benchmark's file of rows and give its sha256."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            image = base64.b64encode(pictures.files[row.images[0]]).decode()
            options = [row.options[letter] for letter in "ABCD"]
            writer.writerow([row.index, row.question, *options, row.answer, row.category, image])
    return hashlib.sha256(path.read_bytes()).hexdigest()


Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Give the function that writes a run folder as an evaluation does, and its benchmark's file beside it."""

    def write(rules: Sequence[str] = RULES, **changes: Any) -> Path:
        pictures = Pictures([picture(number, 120, 90) for number in range(3)])
        rows = choice_rows(12, pictures=pictures)
        data = tmp_path / "AI2D_TEST.tsv"
        digest = write_tsv(data, rows, pictures)
        run = tmp_path / "run"
        run.mkdir()
        lines = [
            json.dumps(
                {"key": "k", "finish": "stop", "prompt_tokens": 9, "new_tokens": 3, **asdict(row)}, ensure_ascii=False
            )
            for row in rows
        ]
        (run / "predictions.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        sets = {
            name: summarise("ai2d_test", name, [judge("ai2d_test", row, name) for row in rows]).as_json()
            for name in rules
        }
        protocol = {"benchmark": "ai2d_test", "data": digest, "data_file": str(data), "weights": "ab" * 32}
        protocol |= {"prompts": "custom", "compat": "none"}
        scores = {"benchmark": "ai2d_test", "rule_sets": sets, "protocol": protocol, **changes}
        (run / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
        RunRecord.start({"task": "eval"}, {"data": digest}).write(run)
        return run

    return write


def test_reads_answers_rules_and_protocol(folder: Folder) -> None:
    run = folder()
    found = read_evaluation(run)
    assert found.benchmark == "ai2d_test"
    assert found.rules == RULES
    assert [row.index for row in found.rows] == [str(number) for number in range(12)]
    assert found.protocol["weights"] == "ab" * 32
    assert "python" in found.protocol["versions"]
    scores = json.loads((run / "scores.json").read_text())
    assert [scored.as_json() for _, scored, _ in found.results()] == _as_read(scores)
    assert [name for name, _, _ in found.results(["vlmevalkit-legacy"])] == ["vlmevalkit-legacy"]


def _as_read(scores: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**one, "groups": tuple(one["groups"]), "split_groups": ()} for one in scores["rule_sets"].values()]


def test_answers_beyond_a_lowered_limit_are_not_on_the_page(folder: Folder) -> None:
    run = folder()
    scores = json.loads((run / "scores.json").read_text())
    scores["protocol"]["rows"] = 5
    (run / "scores.json").write_text(json.dumps(scores))
    assert [row.index for row in read_evaluation(run).rows] == ["0", "1", "2", "3", "4"]


def test_a_last_line_without_its_end_is_no_row(folder: Folder) -> None:
    run = folder()
    with (run / "predictions.jsonl").open("a") as file:
        file.write('{"index": "13"')
    assert len(read_evaluation(run).rows) == 12


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[]", "not a JSON object"),
        ("{", "Expecting"),
        ('{"index": "1"}', "missing: key, answer, prediction, finish, prompt_tokens, new_tokens"),
        ('{"index": 1, "answer": "A", "prediction": "A"}', "wrong type: index"),
        ('{"index": "1", "answer": "A", "prediction": "A", "options": ["x"]}', "wrong type: options"),
        ('{"index": "1", "answer": "A", "prediction": "A", "images": "x"}', "wrong type: images"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_a_broken_line_is_named(folder: Folder, line: str, message: str) -> None:
    run = folder()
    with (run / "predictions.jsonl").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(OutputError, match=r"is not a prediction") as caught:
        read_evaluation(run)
    assert message in str(caught.value)
    assert caught.value.problems[0].where.endswith("predictions.jsonl:13")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule_sets": {}}, "rule_sets and protocol"),
        ({"protocol": []}, "rule_sets and protocol"),
        ({"rule_sets": {"mindspeed": {"benchmark": "none_such"}}}, "no benchmark"),
        ({"rule_sets": {"none_such": {"benchmark": "ai2d_test"}}}, "rules that cannot score ai2d_test: none_such"),
    ],
)
def test_scores_that_no_evaluation_writes_are_refused(folder: Folder, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OutputError, match=message) as caught:
        read_evaluation(folder(**changes))
    assert "finished" in caught.value.problems[0].fix


def test_a_folder_that_is_no_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no such file"):
        read_evaluation(tmp_path)


def test_rules_that_do_not_fit_are_refused_with_those_that_do(folder: Folder) -> None:
    with pytest.raises(DataError, match="exact cannot score ai2d_test; it has: vlmevalkit-2026-06") as caught:
        read_evaluation(folder()).results(["exact"])
    assert caught.value.problems[0].key == "--rules"


def test_another_file_is_not_taken_for_the_benchmarks(folder: Folder, tmp_path: Path) -> None:
    found = read_evaluation(folder())
    other = tmp_path / "other.tsv"
    other.write_bytes(Path(found.data_file).read_bytes() + b"\n")
    with pytest.raises(DataError, match="is not the file that was answered"):
        AskedRows(other, found)
    asked = AskedRows(Path(found.data_file), found)
    row, stranger = found.rows[4], AnsweredRow(index="none", answer="", prediction="")
    assert [hashlib.sha256(data).hexdigest() for data in asked.pictures(row)] == list(row.images)
    assert list(asked.pictures(stranger)) == []
    assert asked.prompt(stranger) is None


def test_prompts_are_those_of_the_family_that_asked(folder: Folder) -> None:
    found = read_evaluation(folder())
    asked = AskedRows(Path(found.data_file), found)
    options = "".join(f"{letter}. {text}\n" for letter, text in found.rows[4].options.items())
    closing = "Please select the correct answer from the options above."
    assert (
        asked.prompt(found.rows[4]) == f"[picture 1]\nQuestion: {found.rows[4].question}\nOptions:\n{options}{closing}"
    )
    unknown = dataclasses.replace(found, protocol={**found.protocol, "prompts": "none such"})
    assert AskedRows(Path(found.data_file), unknown).prompt(found.rows[4]) is None


def test_command_writes_the_page_with_pictures(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder()
    assert main(["eval", "report", str(run)]) == 0
    text = (run / "report.html").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html><!-- qvl eval page -->")
    assert "data:image/jpeg" in text
    assert "Prompt as sent" in text
    assert "12 rows" in capsys.readouterr().out
    # Its own page is written again.
    assert main(["eval", "report", str(run), "--rules", "vlmevalkit-legacy"]) == 0
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "vlmevalkit-legacy" in text
    assert "mindspeed" not in text


def test_command_says_that_pictures_are_missing(
    folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder()
    moved = tmp_path / "moved.tsv"
    (tmp_path / "AI2D_TEST.tsv").rename(moved)
    page = tmp_path / "page.html"
    assert main(["eval", "report", str(run), "--out", str(page)]) == 0
    assert "no pictures: the benchmark's file is not there" in capsys.readouterr().err
    assert "Pictures are not on this page" in page.read_text(encoding="utf-8")
    assert main(["eval", "report", str(run), "--out", str(page), "--data", str(moved)]) == 0
    assert "data:image/jpeg" in page.read_text(encoding="utf-8")


def test_command_refuses_wrong_input_and_leaves_files_alone(
    folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder()
    mine = tmp_path / "mine.html"
    mine.write_text("mine")
    assert main(["eval", "report", str(run), "--out", str(mine)]) == 2
    assert mine.read_text() == "mine"
    assert main(["eval", "report", str(tmp_path)]) == 2
    assert main(["eval", "report", str(run), "--data", str(tmp_path / "none.tsv")]) == 2
    assert not (run / "report.html").exists()
    assert "Traceback" not in capsys.readouterr().err
