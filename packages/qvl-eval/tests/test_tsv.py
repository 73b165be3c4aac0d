"""Reading benchmark files: what the format allows is read, what is broken is named with its line and row."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from qvl_core.errors import DataError, InputChangedError
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


def test_a_short_cell_may_point_forward_to_a_row_with_a_picture(write_tsv: WriteTsv) -> None:
    file = read_benchmark(write_tsv([("a", "b", "q", "1"), ("b", CELL, "q", "2")]))
    assert [row.images for row in file.rows] == [(PICTURE,)] * 2


@pytest.mark.parametrize(
    ("target", "why"),
    [("b", "'b' is the row itself"), ("c", "'c' names another row itself"), ("nothing", "is no row with a picture")],
)
def test_refuses_a_reference_to_itself_to_nothing_or_to_one_that_is_followed_later(
    write_tsv: WriteTsv, target: str, why: str
) -> None:
    text = problems_of(write_tsv([("a", CELL, "q", "1"), ("b", target, "q", "2"), ("c", "a", "q", "3")]))
    assert "rows.tsv:3: row b, image" in text
    assert "index of a row with a picture" in text
    assert why in text


def test_a_reference_to_a_row_without_a_picture_is_refused(write_tsv: WriteTsv) -> None:
    assert "row 2, image" in problems_of(write_tsv([("1", "", "q", "a"), ("2", "1", "q", "a"), ("3", CELL, "q", "a")]))


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


def test_refuses_an_empty_or_repeated_index(write_tsv: WriteTsv) -> None:
    text = problems_of(write_tsv([("", CELL, "q", "a"), ("2", CELL, "q", "a"), ("2", CELL, "q", "a")]))
    assert "the index is empty" in text
    assert "rows.tsv:4: index" in text
    assert "occurs twice: on line 3 too" in text


def test_a_row_without_a_picture_is_left_out_and_named(write_tsv: WriteTsv) -> None:
    file = read_benchmark(write_tsv([("1", "", "q", "a"), ("2", CELL, "q", "a")]))
    assert [row.index for row in file.rows] == ["2"]
    assert file.without_picture == ("1",)
    assert "no rows with a picture, 1 without" in problems_of(write_tsv([("1", "", "q", "a")]))


def test_refuses_a_column_that_is_there_twice(write_tsv: WriteTsv) -> None:
    assert "has the column A more than once" in problems_of(
        write_tsv([("1", CELL, "q", "a", "x", "y")], header=(*HEADER, "A", "A"))
    )


OPTIONS = (*HEADER, "A", "B", "C", "D", "E")


def test_options_are_letters_that_are_there_in_order_none_and_na_among_them(write_tsv: WriteTsv) -> None:
    header = (*HEADER, "B", "A", "C", "AA", "hint")
    row = read_benchmark(write_tsv([("1", CELL, "q", "a", "None", "NA", "", "x", "h")], header=header)).rows[0]
    assert list(row.options.items()) == [("A", "NA"), ("B", "None")]


def test_as_pandas_reads_missing_texts_and_columns_of_numbers(write_tsv: WriteTsv) -> None:
    rows = [
        ("007", CELL, "1", "a", "None", "1", "1", "0.50", "true"),
        ("008", "7", "2", "b", "x", "", "2", "3", ""),
        ("009", "NA", "3", "b", "x", "2", "x", "3", "FALSE"),
    ]
    path = write_tsv(rows, header=OPTIONS)
    file = read_benchmark(path, compat="pandas")
    assert file.without_picture == ("9",)
    assert [dict(row.options) for row in file.rows] == [
        {"B": "1.0", "C": "1", "D": "0.5", "E": "True"},
        {"A": "x", "C": "2", "D": "3.0"},
    ]
    assert [row.index for row in file.rows] == ["7", "8"]
    assert file.rows[1].images == (PICTURE,)
    assert "index of a row with a picture" in problems_of(path)


@pytest.mark.parametrize(
    ("indexes", "expected"), [(("1", "20"), True), (("0", "-3"), True), (("007", "1"), False), (("1", "a"), False)]
)
def test_says_whether_indexes_are_whole_numbers(write_tsv: WriteTsv, indexes: tuple[str, str], expected: bool) -> None:
    file = read_benchmark(write_tsv([(index, CELL, "q", "a") for index in indexes]))
    assert file.has_integer_index is expected


def test_names_of_pictures_are_a_path_or_a_list_of_paths(write_tsv: WriteTsv) -> None:
    header = (*HEADER, "image_path")
    cells = ("dir/ä.png", "['a_1.png', 'ä_2.png']", "")
    file = read_benchmark(write_tsv([(str(n), CELL, "q", "a", cell) for n, cell in enumerate(cells)], header=header))
    assert [row.image_paths for row in file.rows] == [("dir/ä.png",), ("a_1.png", "ä_2.png"), ()]
    assert "image_path" in problems_of(write_tsv([("1", CELL, "q", "a", "[1, 2]")], header=header))


def test_pictures_stay_in_the_file_and_a_file_written_meanwhile_is_told(write_tsv: WriteTsv) -> None:
    path = write_tsv([("1", CELL, "q", "a")])
    row = read_benchmark(path).rows[0]
    assert row.digests == (hashlib.sha256(PICTURE).hexdigest(),)
    path.unlink()
    assert row.images == (PICTURE,)
    path = write_tsv([("1", CELL, "q", "a")])
    row = read_benchmark(path).rows[0]
    with path.open("ab") as file:
        file.write(b"x")
    with pytest.raises(InputChangedError, match="was written to"):
        row.images  # noqa: B018


def test_gives_both_hashes_of_the_file(write_tsv: WriteTsv) -> None:
    path = write_tsv([("1", CELL, "q", "a")])
    file = read_benchmark(path)
    assert file.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert file.md5 == hashlib.md5(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("line_end", ["\r\n", "\r", "\n"])
@pytest.mark.parametrize("last", [True, False])
def test_reads_what_the_csv_module_reads(tmp_path: Path, line_end: str, last: bool) -> None:
    text = f'index\timage\tquestion\tanswer\n1\t"{CELL}"\t"a ""b""\n\tc"\ty"z"\n\n2\t{CELL}\t\t""\n'
    path = tmp_path / "rows.tsv"
    data = text.replace("\n", line_end).encode()
    path.write_bytes(b"\xef\xbb\xbf" + (data if last else data[: -len(line_end)]))
    expected = [cells for cells in csv.reader(io.StringIO(data.decode(), newline=""), delimiter="\t") if cells][1:]
    rows = read_benchmark(path).rows
    assert [[row.index, row.question, row.answer] for row in rows] == [[one[0], *one[2:]] for one in expected]
    assert [row.line for row in rows] == [2, 5]


def test_a_byte_that_is_not_utf_8_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_bytes(f'index\timage\tquestion\tanswer\n1\t{CELL}\t"a\n'.encode() + b'\xff"\tb\n')
    assert "rows.tsv:3" in problems_of(path)


def test_refuses_missing_columns_naming_what_is_there(write_tsv: WriteTsv) -> None:
    text = problems_of(write_tsv([("1", "q")], header=("index", "question")))
    assert "has no column image, answer" in text
    assert "index, question" in text


def test_refuses_a_row_with_another_number_of_cells(write_tsv: WriteTsv) -> None:
    assert "has 2 cells; the header has 4" in problems_of(write_tsv([("1", CELL)]))


def test_shortens_a_long_list_of_problems(write_tsv: WriteTsv) -> None:
    text = problems_of(write_tsv([(str(number), "?", "q", "a") for number in range(SHOWN_PROBLEMS + 5)]))
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
