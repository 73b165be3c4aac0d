"""Pictures of rows for the page of a training: those that are asked for, and nothing of a file that is none."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
from qvl_core.errors import DataError
from qvl_eval.evaluation.during_training import TrainingEvaluator

ONE, OTHER = b"one picture" * 10, b"another picture" * 10


def cell(*pictures: bytes) -> str:
    texts = [base64.b64encode(one).decode() for one in pictures]
    return texts[0] if len(texts) == 1 else str(texts)


def test_gives_the_pictures_of_the_rows_that_are_wanted(tmp_path: Path) -> None:
    rows = [("1", cell(ONE)), ("2", cell(ONE, OTHER)), ("3", "1"), ("4", "x" * 90), ("5", cell(OTHER))]
    lines = ["index\timage", *("\t".join(row) for row in rows)]
    (tmp_path / "a.tsv").write_text("".join(f"{line}\n" for line in lines))
    found = TrainingEvaluator.pictures(tmp_path / "a.tsv", {"1", "2", "3", "4", "nine"}, compat="none")
    # A row that names another one has its picture; what is not base64 is none.
    assert found == {"1": (ONE,), "2": (ONE, OTHER), "3": (ONE,), "4": ()}


def test_a_file_of_gigabytes_is_not_hashed_for_a_few_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tsv").write_text(f"index\timage\n1\t{cell(ONE)}\n")
    monkeypatch.setattr(hashlib, "md5", lambda *_, **__: pytest.fail("the whole file is hashed"))
    assert TrainingEvaluator.pictures(tmp_path / "a.tsv", {"1"}, compat="none") == {"1": (ONE,)}


@pytest.mark.parametrize("text", [None, "", "question\nWhich?\n"])
def test_a_file_that_is_gone_or_no_benchmark_is_told(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "a.tsv").write_text(text)
    with pytest.raises(DataError):
        TrainingEvaluator.pictures(tmp_path / "a.tsv", {"1"}, compat="none")
