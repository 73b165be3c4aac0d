"""Reading benchmark files: what the format allows is read, what is broken is named with its line and row."""

from __future__ import annotations

import base64
import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from qvl_core.errors import DataError
from qvl_eval.tsv import REFERENCE_CHARACTERS, SHOWN_PROBLEMS, read_benchmark

PICTURE = b"\x89PNG and enough bytes that the text is longer than any reference"
CELL = base64.b64encode(PICTURE).decode()
HEADER = ("index", "image", "question", "answer")
WriteTsv = Callable[..., Path]


@pytest.fixture
def write_tsv(tmp_path: Path) -> WriteTsv:
    def write(rows: Sequence[Sequence[str]], header: Sequence[str] = HEADER) -> Path:
        path = tmp_path / "rows.tsv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter="\t", lineterminator="\n").writerows([header, *rows])
        return path

    return write


def problems_of(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_benchmark(path)
    return str(caught.value)


def test_reads_rows_in_order_with_their_lines(write_tsv: WriteTsv) -> None:
    file = read_benchmark(write_tsv([("1", CELL, "Which?", "7"), ("2", CELL, "What?", "3")]))
    assert [(row.index, row.line, row.question, row.answer) for row in file.rows] == [
        ("1", 2, "Which?", "7"),
        ("2", 3, "What?", "3"),
    ]
    assert file.rows[0].images == (PICTURE,)


def test_quoted_cells_may_hold_line_ends_tabs_and_quotes(write_tsv: WriteTsv) -> None:
    question = 'first line\nsecond\t"quoted"'
    file = read_benchmark(write_tsv([("1", CELL, question, "7"), ("2", CELL, "next", "1")]))
    assert file.rows[0].question == question
    assert file.rows[1].line == 4


@pytest.mark.parametrize("text", ["None", "NA", "nan", "null", "007", "1.50"])
def test_keeps_every_cell_as_the_text_it_is(write_tsv: WriteTsv, text: str) -> None:
    row = read_benchmark(write_tsv([(text, CELL, "q", text)])).rows[0]
    assert (row.index, row.answer) == (text, text)


def test_reads_a_cell_beyond_the_csv_modules_own_limit(write_tsv: WriteTsv) -> None:
    limit = csv.field_size_limit()
    picture = bytes(limit)
    file = read_benchmark(write_tsv([("1", base64.b64encode(picture).decode(), "q", "a")]))
    assert file.rows[0].images == (picture,)
    assert csv.field_size_limit() == limit


def test_a_short_cell_points_to_an_earlier_row_also_in_a_chain(write_tsv: WriteTsv) -> None:
    file = read_benchmark(write_tsv([("a", CELL, "q", "1"), ("b", "a", "q", "2"), ("c", "b", "q", "3")]))
    assert [row.images for row in file.rows] == [(PICTURE,)] * 3


@pytest.mark.parametrize("target", ["b", "c", "nothing"])
def test_refuses_a_reference_forward_to_itself_or_to_nothing(write_tsv: WriteTsv, target: str) -> None:
    text = problems_of(write_tsv([("a", CELL, "q", "1"), ("b", target, "q", "2"), ("c", CELL, "q", "3")]))
    assert "rows.tsv:3: row b, image" in text
    assert "index of a row above" in text


def test_the_longest_reference_and_the_shortest_picture(write_tsv: WriteTsv) -> None:
    name = "x" * REFERENCE_CHARACTERS
    shortest = base64.b64encode(bytes(51)).decode()
    assert len(shortest) == 68
    file = read_benchmark(write_tsv([(name, shortest, "q", "1"), ("b", name, "q", "2")]))
    assert file.rows[1].images == (bytes(51),)


def test_reads_a_list_of_pictures(write_tsv: WriteTsv) -> None:
    file = read_benchmark(write_tsv([("1", str([CELL, CELL]), "q", "a"), ("2", "1", "q", "a")]))
    assert file.rows[0].images == file.rows[1].images == (PICTURE, PICTURE)


@pytest.mark.parametrize("cell", ["[" + "x" * 80 + "]", "[" + "1, " * 40 + "1]", "[]" + " " * 80 + "[]"])
def test_refuses_a_list_that_is_not_one_of_texts(write_tsv: WriteTsv, cell: str) -> None:
    assert "row 1, image" in problems_of(write_tsv([("1", cell, "q", "a")]))


def test_never_runs_code_in_a_list_cell(write_tsv: WriteTsv, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    cell = f"[open({str(trap)!r}, 'w').write('x'), '{'y' * 80}']"
    problems_of(write_tsv([("1", cell, "q", "a")]))
    assert not trap.exists()


def test_refuses_what_is_not_base64_naming_line_and_row(write_tsv: WriteTsv) -> None:
    text = problems_of(write_tsv([("8", CELL, "q", "a"), ("9", "!" * 80, "q", "a")]))
    assert "rows.tsv:3: row 9, image" in text
    assert "is not base64" in text


def test_refuses_an_empty_picture_index_or_repeated_index(write_tsv: WriteTsv) -> None:
    text = problems_of(
        write_tsv([("1", "", "q", "a"), ("", CELL, "q", "a"), ("2", CELL, "q", "a"), ("2", CELL, "q", "a")])
    )
    assert "every row needs a picture" in text
    assert "the index is empty" in text
    assert "rows.tsv:5: index" in text
    assert "occurs twice" in text


def test_refuses_missing_columns_naming_what_is_there(write_tsv: WriteTsv) -> None:
    text = problems_of(write_tsv([("1", "q")], header=("index", "question")))
    assert "has no column image, answer" in text
    assert "index, question" in text


def test_refuses_a_row_with_another_number_of_cells(write_tsv: WriteTsv) -> None:
    assert "has 2 cells; the header has 4" in problems_of(write_tsv([("1", CELL)]))


def test_shortens_a_long_list_of_problems(write_tsv: WriteTsv) -> None:
    text = problems_of(write_tsv([(str(number), "", "q", "a") for number in range(SHOWN_PROBLEMS + 5)]))
    assert "and 5 more rows with problems" in text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "has no column"),
        (b"index\timage\tquestion\tanswer\n", "no rows"),
        (b"\xff\xfe\x00", "is not UTF-8"),
        (b'index\timage\tquestion\tanswer\n1\t"open', "is not a table"),
    ],
)
def test_refuses_files_that_are_no_tables(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "rows.tsv"
    path.write_bytes(content)
    assert expected in problems_of(path)


def test_refuses_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert "no such file" in problems_of(tmp_path / "none.tsv")
    assert "folder" in problems_of(tmp_path) or "directory" in problems_of(tmp_path)


def test_reads_the_shipped_digits() -> None:
    path = Path(__file__).resolve().parents[3] / "recipes" / "tiny" / "digits" / "test.tsv"
    rows = read_benchmark(path).rows
    assert len(rows) == 359
    assert {row.answer for row in rows} == set("0123456789")
