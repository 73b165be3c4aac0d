"""A page replaces an older page, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from qvl_core.errors import OutputError
from qvl_data.inspection.page import page
from qvl_data.inspection.page_file import require_page_place, write_page

PAGE = page("first", "text")


def test_writes_where_nothing_is_and_over_its_own(tmp_path: Path) -> None:
    target = tmp_path / "new" / "deeper" / "report.html"
    write_page(target, PAGE)
    write_page(target, page("second", "text"))
    assert "second" in target.read_text(encoding="utf-8")
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>\n<p>mine", b"\xff\xfe"])
def test_leaves_a_foreign_file_alone(tmp_path: Path, content: bytes) -> None:
    target = tmp_path / "mine.html"
    target.write_bytes(content)
    with pytest.raises(OutputError, match="not a page of `qvl data`") as caught:
        write_page(target, PAGE)
    assert "--overwrite" in caught.value.problems[0].fix
    assert target.read_bytes() == content


def test_overwrites_when_told(tmp_path: Path) -> None:
    target = tmp_path / "mine.html"
    target.write_text("mine")
    write_page(target, PAGE, overwrite=True)
    assert target.read_text(encoding="utf-8") == PAGE


def test_refuses_a_folder_and_a_pipe(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder"):
        require_page_place(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="named pipe"):
        require_page_place(tmp_path / "pipe")


def test_makers_leave_each_others_pages_alone(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    write_page(target, page("one", "text", maker="qvl eval"), maker="qvl eval")
    write_page(target, page("two", "text", maker="qvl eval").encode(), maker="qvl eval")
    with pytest.raises(OutputError, match="not a page of `qvl data`"):
        write_page(target, PAGE)
    assert "two" in target.read_text(encoding="utf-8")
