"""Every kind of failure becomes its exit code and a text without a traceback."""

from __future__ import annotations

import errno
import threading

import pytest
import typer
from qvl_core.cli.boundary import guarded
from qvl_core.errors import (
    DataError,
    InputError,
    NotInstalledError,
    OutputError,
    Problem,
    RecipeError,
    RunError,
    WeightsError,
)


def _raise(error: BaseException):
    def action() -> int:
        raise error

    return action


PROBLEM = Problem(where="a.toml:3", key="layout.pp", message="is 9", fix="pp = 4")


@pytest.mark.parametrize("kind", [RecipeError, WeightsError, DataError, OutputError, InputError])
def test_wrong_input_ends_with_2_and_shows_line_key_and_fix(kind: type[InputError], capsys) -> None:
    assert guarded(_raise(kind(PROBLEM))) == 2
    error = capsys.readouterr().err
    assert error == "a.toml:3: layout.pp\n  is 9\n  fix: pp = 4\n"


def test_several_problems_are_all_shown_and_counted(capsys) -> None:
    other = Problem(where="a.toml:7", message="is wrong too")
    assert guarded(_raise(RecipeError([PROBLEM, other]))) == 2
    error = capsys.readouterr().err
    assert "is 9" in error
    assert "is wrong too" in error
    assert error.endswith("2 problems\n")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (NotInstalledError("X is not installed\n  fix: pip install x"), 3, "qvl: X is not installed"),
        (RunError("the loss is NaN at step 7"), 1, "qvl: the loss is NaN at step 7"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/a"), 1, "qvl: runs/a: No space left on device"),
        (MemoryError(), 1, "out of memory"),
        (ZeroDivisionError("division by zero"), 1, "this is a bug in qvl"),
        (typer.BadParameter("is not a number"), 2, "is not a number"),
    ],
)
def test_each_failure_has_its_code_and_text(error: BaseException, code: int, text: str, capsys) -> None:
    assert guarded(_raise(error)) == code
    said = capsys.readouterr().err
    assert text in said
    assert "Traceback" not in said


def test_debug_shows_the_traceback_and_still_the_text(capsys) -> None:
    assert guarded(_raise(RecipeError(PROBLEM)), debug=True) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "fix: pp = 4" in said


@pytest.mark.parametrize(("error", "code"), [(typer.Exit(4), 4), (SystemExit(5), 5), (SystemExit(None), 0)])
def test_a_stated_exit_code_is_kept(error: BaseException, code: int) -> None:
    assert guarded(_raise(error)) == code


def test_ctrl_c_is_said_also_where_typer_has_made_an_exit_code_of_it(capsys) -> None:
    assert guarded(lambda: 130) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_success_keeps_the_code_and_says_nothing(capsys) -> None:
    assert guarded(lambda: 0) == 0
    assert capsys.readouterr().err == ""


def test_a_closed_pipe_is_quiet(capfd) -> None:
    assert guarded(_raise(BrokenPipeError())) == 1
    assert capfd.readouterr().err == ""


def test_ctrl_c_that_surfaces_as_an_error_about_a_lock_is_ctrl_c(capsys) -> None:
    def action() -> int:
        try:
            raise KeyboardInterrupt
        finally:
            threading.Lock().release()

    assert guarded(action) == 130
    assert "bug in qvl" not in capsys.readouterr().err


def test_an_error_that_was_raised_on_purpose_is_told_although_ctrl_c_came_before(capsys) -> None:
    def action() -> int:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise RunError("the disk is full") from None

    assert guarded(action) == 1
    assert "the disk is full" in capsys.readouterr().err
