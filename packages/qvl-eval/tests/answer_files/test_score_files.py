"""The files for people: what is in them, and what they do with replies that spreadsheets choke on."""

from __future__ import annotations

import csv
import errno
import io
import json
import zipfile
from pathlib import Path

import pytest
from openpyxl import load_workbook
from qvl_core.errors import DiskError, OutputError
from qvl_eval.answer_files.answers import read_answers
from qvl_eval.answer_files.score_files import CSV_COLUMNS, accuracies_csv, write_score_files
from qvl_eval.answer_files.workbook_writer import MAX_CELL_UNITS, answers_workbook, cell_text
from qvl_eval.score.judge import judge
from qvl_eval.score.judged import AnsweredRow, Judged
from qvl_eval.score.summary import Scores, summarise

NASTY = [
    "=1+1",
    '=HYPERLINK("http://x")',
    "+1",
    "-1",
    "@x",
    "http://x.example/" + "a" * 3000,
    "mailto:a@b.c",
    "a\x00b\x0bc\x1bd\x7f",
    "_x000B_",
    "1e5",
    "007",
    "TRUE",
    "line\nline\r\nline\ttab",
    " blanks ",
    "<b>&amp;</b>",
    "\U0001f600 \u4e2d\u6587",
    "",
]
RULES = ("vlmevalkit-2026-06", "mindspeed")


def results(predictions: list[str]) -> list[tuple[Scores, list[Judged]]]:
    rows = [
        AnsweredRow(
            index=str(i),
            prediction=text,
            answer="B",
            question="=q",
            options={"A": "=x", "B": "y"},
            split="v",
            category="c",
        )
        for i, text in enumerate(predictions)
    ]
    found = []
    for rules in RULES:
        judged = [judge("ai2d_test", row, rules) for row in rows]
        found.append((summarise("ai2d_test", rules, judged), judged))
    return found


def test_every_reply_comes_back_from_the_workbook(tmp_path: Path) -> None:
    path = write_score_files(tmp_path, "m", "ai2d_test", results(NASTY))[0]
    assert path.name == "m_ai2d_test.xlsx"
    answers = read_answers(path, "ai2d_test")
    assert [row.prediction for row in answers.rows] == NASTY
    assert answers.model == "m"


def test_the_workbook_holds_no_formula_and_no_link() -> None:
    data = answers_workbook([judged for _, judged in results(NASTY)])
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        sheet = archive.read("xl/worksheets/sheet1.xml").decode()
        assert not any("rels" in name and "sheet1" in name for name in archive.namelist())
    assert "<f>" not in sheet
    assert "hyperlink" not in sheet.lower().replace("=hyperlink(", "")
    book = load_workbook(io.BytesIO(data))
    assert {cell.data_type for row in book.active.iter_rows(min_row=2, max_col=9) for cell in row} <= {
        "s",
        "inlineStr",
        "n",
    }
    column = [cell.value for cell in next(book.active.iter_cols(min_col=9, max_col=9, min_row=2))]
    assert column[0] == "=1+1"


def test_the_workbook_has_score_letter_and_rule_of_each_rule_set() -> None:
    book = load_workbook(io.BytesIO(answers_workbook([judged for _, judged in results(["B", "?"])])))
    header, right, failed = [tuple(cell.value for cell in row) for row in book.active.iter_rows()]
    assert header == (
        *("index", "split", "category", "l2-category", "question", "A", "B", "answer", "prediction"),
        *(f"{rules} {name}" for rules in RULES for name in ("score", "extracted", "rule")),
    )
    assert right == ("0", "v", "c", None, "=q", "=x", "y", "B", "B", *(1, "B", "letter token") * 2)
    assert failed[9:12] == (0, None, "no option found")


@pytest.mark.parametrize("text", ["x" * 40_000, "\U0001f600" * 20_000, "x" * 32_768])
def test_a_long_reply_is_cut_with_a_mark(text: str) -> None:
    cut = cell_text(text)
    assert len(cut.encode("utf-16-le")) // 2 <= MAX_CELL_UNITS
    assert cut.endswith(f" ... [cut: {len(text):,} characters in all]")
    assert cut[:30_000].startswith(text[:1000])
    assert cell_text("x" * 32_767) == "x" * 32_767


def test_a_cut_reply_is_said_when_it_is_read_again(tmp_path: Path) -> None:
    path = write_score_files(tmp_path, "m", "ai2d_test", results(["x" * 40_000]))[0]
    assert "1 replies are as long as a cell can be" in read_answers(path, "ai2d_test").notes[0]


def test_what_is_no_character_is_written_all_the_same() -> None:
    assert cell_text("a\ud800b") == "a\ufffdb"
    assert load_workbook(io.BytesIO(answers_workbook([j for _, j in results(["\ufffe\ud800"])]))).active["I2"].value


def test_the_files_depend_on_the_rows_alone(tmp_path: Path) -> None:
    first = write_score_files(tmp_path / "a", "m", "ai2d_test", results(NASTY))
    second = write_score_files(tmp_path / "b", "m", "ai2d_test", results(NASTY))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert write_score_files(tmp_path / "a", "m", "ai2d_test", results(NASTY)) == first
    with zipfile.ZipFile(first[0]) as archive:
        assert len({member.date_time for member in archive.infolist()}) == 1


def test_the_accuracies_have_a_row_per_group_with_unit_and_number() -> None:
    text = accuracies_csv([scores for scores, _ in results(["B", "A", "?"])])
    rows = list(csv.reader(io.StringIO(text)))
    assert tuple(rows[0]) == CSV_COLUMNS
    new = "vlmevalkit-2026-06"
    assert rows[1:4] == [
        ["ai2d_test", new, "overall", "", "all rows", "yes", "3", "1", "33.3333", "33.3333", "50.0000", "percent"],
        ["ai2d_test", new, "split", "", "v", "no", "3", "1", "33.3333", "33.3333", "50.0000", "percent"],
        ["ai2d_test", new, "category", "", "c", "no", "3", "1", "33.3333", "33.3333", "50.0000", "percent"],
    ]
    assert [row[1] for row in rows[1:]] == [new] * 3 + ["mindspeed"] * 3
    assert "\r" not in text


def test_the_scores_are_json(tmp_path: Path) -> None:
    path = write_score_files(tmp_path, "a/../b c", "ai2d_test", results(["B", "?"]))[2]
    assert path.parent == tmp_path
    assert path.name == "a_.._b_c_ai2d_test_scores.json"
    content = json.loads(path.read_text())
    assert (content["model"], content["unit"]) == ("a/../b c", "percent")
    assert content["results"][0]["headline"]["percent"] == 50.0


def test_a_place_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        write_score_files(tmp_path / "file" / "out", "m", "ai2d_test", results(["B"]))


def test_a_full_disk_under_the_temporary_sheet_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("qvl_eval.answer_files.score_files.answers_workbook", full)
    with pytest.raises(DiskError, match="No space left on device"):
        write_score_files(tmp_path / "out", "m", "ai2d_test", results(["B"]))
    assert not (tmp_path / "out").exists()
