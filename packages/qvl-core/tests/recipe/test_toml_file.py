"""Files that are no recipes: each ends as one problem that says what the file is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from qvl_core.errors import Problem, RecipeError
from qvl_core.recipe import load_recipe


def refusal(path: str | Path) -> Problem:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


def refusal_of(content: bytes, tmp_path: Path) -> Problem:
    file = tmp_path / "recipe.toml"
    file.write_bytes(content)
    return refusal(file)


def test_missing_file(tmp_path: Path) -> None:
    problem = refusal(tmp_path / "none.toml")
    assert problem.message == "does not exist"
    assert "qvl recipes" in problem.fix


def test_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path).message == "is a folder, not a recipe"


def test_fifo_is_refused_without_opening_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    assert refusal(tmp_path / "pipe.toml").message == "is not a regular file"


def test_path_with_nul() -> None:
    assert "cannot be read" in refusal("a\0b.toml").message


def test_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbfschema = 1\nextends = 1\n")
    assert refusal(path).key == "extends"


def test_odd_file_names_are_shown_escaped(tmp_path: Path) -> None:
    assert refusal(tmp_path / "red\n\x1b[31m.toml").where.endswith(r"red\n\x1b[31m.toml")


def test_not_utf8_names_line_and_byte(tmp_path: Path) -> None:
    problem = refusal_of(b"a = 1\nb = '\xff'\n", tmp_path)
    assert problem.where.endswith("recipe.toml:2")
    assert problem.message == "is not UTF-8: byte 11 is 0xff"


def test_not_toml_names_line_and_column(tmp_path: Path) -> None:
    problem = refusal_of(b"a = 1\nb = two\n", tmp_path)
    assert problem.where.endswith("recipe.toml:2")
    assert "is not TOML, column 5" in problem.message


def test_key_stated_twice(tmp_path: Path) -> None:
    problem = refusal_of(b"a = 1\na = 2\n", tmp_path)
    assert problem.where.endswith(":2")
    assert "overwrite" in problem.message


def test_end_of_file_inside_a_value(tmp_path: Path) -> None:
    problem = refusal_of(b"a = 1\nb = [1,\n", tmp_path)
    assert problem.where.endswith(":2")
    assert "end of the file" in problem.message


def test_larger_than_a_mebibyte(tmp_path: Path) -> None:
    assert "larger than 1048576 bytes" in refusal_of(b"#" * (1024**2 + 1), tmp_path).message


@pytest.mark.parametrize(
    "content",
    [
        b"a = " + b"[" * 100_000,
        b"a = " + b"{a=" * 50_000,
        b"a" + b".a" * 100_000 + b" = 1",
        b"[" + b"a." * 90_000 + b"a]",
    ],
    ids=["arrays", "inline tables", "dotted key", "header"],
)
def test_deep_nesting_is_one_quick_problem(content: bytes, tmp_path: Path) -> None:
    assert "nested" in refusal_of(content, tmp_path).message


def test_moderate_nesting_is_refused_too(tmp_path: Path) -> None:
    assert "nested 51 levels deep" in refusal_of(b"a = " + b"[" * 49 + b"1" + b"]" * 49, tmp_path).message


def test_number_of_5000_digits(tmp_path: Path) -> None:
    problem = refusal_of(b"a = 1\nb = 1" + b"0" * 4999, tmp_path)
    assert problem.where.endswith(":2")
    assert problem.message == "holds a number of 5000 digits"
