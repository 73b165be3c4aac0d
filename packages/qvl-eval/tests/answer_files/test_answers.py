"""Answers out of the files of three tools."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import xlsxwriter
from qvl_core.errors import DataError
from qvl_eval.answer_files.answers import read_answers
from qvl_eval.answer_files.tables import read_table

ROWS: list[dict[str, Any]] = [
    {"index": 0, "question": "q0", "A": "x", "B": "y", "answer": "A", "split": "val", "prediction": "A"},
    {"index": 7, "question": "q7", "A": "1", "B": "2", "answer": "B", "split": "val", "prediction": "(B)\nyes"},
]
HEADER = list(ROWS[0])


def write_xlsx(path: Path, rows: Sequence[Mapping[str, Any]], options: dict[str, Any] | None = None) -> Path:
    with xlsxwriter.Workbook(str(path), options or {"strings_to_urls": False, "strings_to_formulas": False}) as book:
        sheet = book.add_worksheet()
        for column, name in enumerate(rows[0]):
            sheet.write_string(0, column, name)
            for number, row in enumerate(rows, 1):
                sheet.write(number, column, row[name])
    return path


def quoted(row: Mapping[str, Any]) -> dict[str, str]:
    return {f'"{name}"': f'"{value}"' for name, value in row.items()}


def lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_csv(path: Path, rows: Sequence[Mapping[str, Any]], delimiter: str = ",") -> Path:
    cells = [list(rows[0]), *[list(row.values()) for row in rows]]
    text = "\n".join(delimiter.join('"' + str(cell).replace('"', '""') + '"' for cell in row) for row in cells)
    path.write_text(text + "\n")
    return path


def as_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {
    "VLMEvalKit xlsx": lambda f: write_xlsx(f / "qwen_AI2D_TEST.xlsx", ROWS),
    "VLMEvalKit csv": lambda f: as_csv(f / "qwen_AI2D_TEST.csv", ROWS),
    "VLMEvalKit tsv": lambda f: as_csv(f / "qwen_AI2D_TEST.tsv", ROWS, "\t"),
    "MindSpeed-MM xlsx": lambda f: write_xlsx(f / "qwen_ai2d_test.xlsx", [quoted(row) for row in ROWS]),
    "MindSpeed-MM json": lambda f: as_json(f / "qwen_ai2d_test.json", [quoted(row) for row in ROWS]),
    "list of objects": lambda f: as_json(f / "qwen_ai2d_test.json", ROWS),
    "lines in .json": lambda f: lines(f / "qwen_ai2d_test.json", ROWS),
    "lines": lambda f: lines(f / "qwen_ai2d_test.jsonl", ROWS),
    "columns by row": lambda f: as_json(
        f / "qwen_ai2d_test.json", {name: {str(i): row[name] for i, row in enumerate(ROWS)} for name in HEADER}
    ),
    "columns": lambda f: as_json(f / "qwen_ai2d_test.json", {name: [row[name] for row in ROWS] for name in HEADER}),
    "columns and rows": lambda f: as_json(
        f / "qwen_ai2d_test.json", {"columns": HEADER, "index": [0, 1], "data": [list(row.values()) for row in ROWS]}
    ),
    "rows with a schema": lambda f: as_json(f / "qwen_ai2d_test.json", {"schema": {"fields": []}, "data": ROWS}),
    "objects by index": lambda f: as_json(
        f / "qwen_ai2d_test.json", {str(row["index"]): {k: v for k, v in row.items() if k != "index"} for row in ROWS}
    ),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_reads_every_form(tmp_path: Path, kind: str) -> None:
    answers = read_answers(WRITERS[kind](tmp_path), "ai2d_test")
    assert answers.model == "qwen"
    assert [(row.index, row.answer, row.prediction) for row in answers.rows] == [
        ("0", "A", "A"),
        ("7", "B", "(B)\nyes"),
    ]
    assert [dict(row.options) for row in answers.rows] == [{"A": "x", "B": "y"}, {"A": "1", "B": "2"}]
    assert [row.split for row in answers.rows] == ["val", "val"]
    assert answers.notes == ()


def test_reads_our_predictions_and_names_the_model_by_the_run(tmp_path: Path) -> None:
    row = {
        **{"key": "k", "index": "validation_Art_1", "split": "validation", "category": "c", "subcategory": "Art"},
        **{"question": "q", "options": {"A": "None", "B": "NA", "C": ""}, "question_type": "multiple-choice"},
        **{"answer": "A", "prediction": "nan", "images": ["h1", "h2"], "new_tokens": 3},
    }
    lines(tmp_path / "predictions.jsonl", [row])
    (tmp_path / "run.json").write_text(json.dumps({"recipe": {"model": {"name": "qwen2.5-vl-7b"}}}))
    answers = read_answers(tmp_path, "mmmu_dev_val")
    (found,) = answers.rows
    assert answers.model == "qwen2.5-vl-7b"
    assert found.options == {"A": "None", "B": "NA"}
    assert (found.subcategory, found.images, found.question_type) == ("Art", ("h1", "h2"), "multiple-choice")
    assert found.prediction == "nan"
    assert read_answers(tmp_path / "predictions.jsonl", "mmmu_dev_val") == answers


def test_the_torn_last_line_of_a_killed_run_is_left_out_and_said(tmp_path: Path) -> None:
    path = lines(tmp_path / "predictions.jsonl", ROWS)
    with path.open("a") as file:
        file.write('{"index": "8", "pred')
    answers = read_answers(path, "ai2d_test")
    assert len(answers.rows) == 2
    assert answers.notes == (f"{path}:3: the last line is not whole and was left out",)


def test_a_run_with_several_files_is_not_finished(tmp_path: Path) -> None:
    lines(tmp_path / "predictions.jsonl", ROWS)
    lines(tmp_path / "predictions.001.jsonl", ROWS)
    with pytest.raises(DataError, match="the run is not finished: answers lie in 2 files"):
        read_answers(tmp_path, "ai2d_test")


def test_a_cell_of_a_quoting_tool_that_says_nan_is_missing_but_for_the_reply(tmp_path: Path) -> None:
    row = {**ROWS[0], "B": "nan", "split": "nan", "prediction": "nan"}
    (found,) = read_answers(write_xlsx(tmp_path / "m_ai2d_test.xlsx", [quoted(row)]), "ai2d_test").rows
    assert (dict(found.options), found.split, found.prediction) == ({"A": "x"}, "", "nan")


def test_numbers_of_a_sheet_come_back_as_they_look(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "index": i, "prediction": value} for i, value in enumerate((3, 3.0, 0.5, True, "", "007"))]
    path = write_xlsx(tmp_path / "m_chartqa_test.xlsx", rows)
    answers = read_answers(path, "chartqa_test")
    assert [row.prediction for row in answers.rows] == ["3", "3", "0.5", "True", "", "007"]
    assert answers.notes == (f"{path}: 1 of 6 rows have no reply",)


def test_a_formula_is_scored_as_it_was_typed_and_said(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "m_ai2d_test.xlsx", [{**ROWS[0], "prediction": "=1+1"}], {"strings_to_formulas": True})
    answers = read_answers(path, "ai2d_test")
    assert answers.rows[0].prediction == "=1+1"
    assert "1 replies start with =" in answers.notes[0]


def test_control_characters_come_back(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "m_ai2d_test.xlsx", [{**ROWS[0], "prediction": "B\x0b_x_\x00"}])
    assert read_answers(path, "ai2d_test").rows[0].prediction == "B\x0b_x_\x00"


def test_a_cell_as_long_as_can_be_is_said_to_be_cut(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "m_ai2d_test.xlsx", [{**ROWS[0], "prediction": "x" * 32_767}])
    assert "1 replies are as long as a cell can be" in read_answers(path, "ai2d_test").notes[0]


def test_long_cells_and_blank_lines_of_a_csv_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m_docvqa_val.csv"
    path.write_text('\ufeffindex,answer,prediction\r\n\r\n1,"[\'a\']","' + "x" * 300_000 + '"\r\n\r\n')
    (row,) = read_answers(path, "docvqa_val").rows
    assert (row.answer, len(row.prediction)) == ("['a']", 300_000)


PICTURES = [base64.b64encode(bytes([i]) * 90).decode() for i in range(3)]


def tsv(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return path


def data_file(folder: Path) -> Path:
    header = ("index", "image", "question", "answer", "A", "B", "category", "l2-category", "split")
    rows = [
        ("0", PICTURES[0], "q0", "B", "x", "None", "Science", "Math", "validation"),
        ("1", "0", "q1", "A", "", "y", "Science", "Math", "dev"),
        ("2", str([PICTURES[1], PICTURES[2]]), "q2", "10", "", "", "Science", "Math", "dev"),
    ]
    return tsv(folder / "DATA.tsv", [header, *rows])


def test_what_the_answers_lack_comes_from_the_data_by_index(tmp_path: Path) -> None:
    path = as_json(tmp_path / "0_2_mmmu_dev_val.json", {"2": "ten", "0": "B"})
    answers = read_answers(path, "mmmu_dev_val", data_file(tmp_path))
    two, zero = answers.rows
    assert (two.index, two.answer, dict(two.options), two.prediction) == ("2", "10", {}, "ten")
    assert (zero.answer, dict(zero.options), zero.subcategory, zero.split) == (
        *("B", {"A": "x", "B": "None"}),
        *("Math", "validation"),
    )
    assert zero.images == (hashlib.sha256(bytes(90)).hexdigest(),)
    assert len(two.images) == 2
    assert answers.notes == (f"{path}: answers 2 of the 3 rows of the data",)


def test_a_picture_that_is_another_rows_is_the_same(tmp_path: Path) -> None:
    path = as_json(tmp_path / "a.json", {"0": "B", "1": "A"})
    zero, one = read_answers(path, "ai2d_test", data_file(tmp_path)).rows
    assert zero.images == one.images


def test_an_index_that_the_data_does_not_have_is_named(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"index": index, "prediction": "A"} for index in ("0", "77", "x")])
    with pytest.raises(DataError) as caught:
        read_answers(path, "ai2d_test", data_file(tmp_path))
    assert [problem.where for problem in caught.value.problems] == [f"{path}:2", f"{path}:3"]
    assert "the index '77' is in none of the 3 rows" in caught.value.problems[0].message


def test_another_reference_than_the_datas_is_said_and_the_datas_taken(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"index": "0", "prediction": "A", "answer": "A"}])
    answers = read_answers(path, "ai2d_test", data_file(tmp_path))
    assert answers.rows[0].answer == "B"
    assert "1 rows have another reference than the data (first: 0)" in answers.notes[1]


def test_a_file_named_after_another_benchmark_is_said(tmp_path: Path) -> None:
    answers = read_answers(write_xlsx(tmp_path / "qwen_AI2D_TEST.xlsx", ROWS), "mmmu_dev_val")
    assert "is named after ai2d_test, and scored as mmmu_dev_val" in answers.notes[-1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pkl", "x", "is a pickle, which can run code"),
        ("a.parquet", "x", "has none of the endings that are read: .jsonl, .json, .xlsx, .csv, .tsv"),
        ("a.xlsx", "no zip", "is not an .xlsx file that can be read"),
        ("a.jsonl", '{"index": 1, "prediction": "x"}\n[1]\n', "is not a JSON object"),
        ("a.jsonl", '{"index": 1\n{"index": 2}\n', "is not JSON"),
        ("a.jsonl", "", "holds no rows"),
        ("a.json", "[1, 2]", "holds neither a list of objects"),
        ("a.json", "{", "is not JSON"),
        ("a.json", "[" * 100_000, "is not JSON"),
        ("a.json", "{}", "holds neither"),
        ("a.json", '{"prediction": ["a"], "index": [1, 2]}', "holds neither"),
        ("a.csv", "index,prediction\n1\n", "has 1 cells; the header has 2"),
        ("a.csv", 'index,prediction\n1,"x\n', "is not a table"),
        ("a.csv", "split,Overall\nval,0.5\n", "it has no column index and prediction; it has: split, overall"),
        ("a.csv", "index,x,x,prediction\n1,2,3,4\n", "has two columns 'x'"),
        ("a.csv", "index,Prediction,prediction,answer\n1,2,3,4\n", "has two columns 'prediction'"),
        ("a.csv", "index,prediction,answer,A\n1,x,A,y\n1,z,A,y\n", "the index '1' occurs twice, first at"),
        ("a.csv", "index,prediction,answer,A\n,x,A,y\n", "the index is empty"),
        ("a.csv", "index,prediction,A\n1,x,y\n", "no row has a reference answer"),
        ("a.csv", "index,prediction,answer\n1,x,y\n", "no row has options"),
    ],
)
def test_refuses_what_holds_no_answers(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        read_answers(path, "ai2d_test")
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_refuses_bytes_that_are_no_text_and_says_where(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"index,prediction\n1,\xff\n")
    with pytest.raises(DataError, match="is not UTF-8 text: byte 0xff at position 19") as caught:
        read_table(path)
    assert caught.value.problems[0].where == f"{path}:2"


def test_refuses_a_workbook_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_xlsx(tmp_path / "m_ai2d_test.xlsx", ROWS)
    monkeypatch.setattr("qvl_eval.answer_files.workbook_reader.MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(DataError, match=r"unpacks to [0-9,]+ bytes; 1,000 are expected at most"):
        read_table(path)


def test_cells_far_away_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "m_ai2d_test.xlsx"
    with xlsxwriter.Workbook(str(path)) as book:
        sheet = book.add_worksheet()
        for column, name in enumerate(HEADER):
            sheet.write_string(0, column, name)
            sheet.write(5, column, ROWS[0][name])
        sheet.write(9, 16_383, "far")
        sheet.write(1_000_000, 16_383, "far")
    table = read_table(path)
    assert [record.where for record in table.records] == [f"{path}:6"]
    assert list(table.names) == HEADER


def test_refuses_a_workbook_that_is_only_called_one(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(DataError, match=r"is not an \.xlsx file"):
        read_table(path)


def test_mmmu_answers_without_validation_rows_are_said_to_be_summed_over_all(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "q_mmmu_dev_val.xlsx", ROWS)
    (note,) = read_answers(path, "mmmu_dev_val").notes
    assert "no row is of the split validation: the headline counts all rows" in note


def test_a_missing_number_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps([{"index": 1.0, "prediction": None, "answer": math.nan}, {"index": 2, "prediction": "x"}])
    )
    first, second = read_table(path).records
    assert (first.text("index"), first.text("prediction"), first.text("answer")) == ("1", "", "")
    assert second.text("answer") == ""


def test_a_folder_without_answers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no predictions.jsonl"):
        read_answers(tmp_path, "ai2d_test")
    with pytest.raises(DataError, match="there is no such file"):
        read_answers(tmp_path / "none.jsonl", "ai2d_test")
