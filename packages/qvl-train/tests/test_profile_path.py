"""Paths that MindSpore's profiler refuses are known beforehand, and no others are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from qvl_train.profile_path import refused_path


@pytest.fixture(autouse=True)
def plain_working_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Go where the path has nothing odd: a checkout may lie anywhere."""
    monkeypatch.chdir("/")


@pytest.mark.parametrize("name", ["run", "run 1", "~run_1-a.b", "\u6a21\u578b"])
def test_usual_names_are_taken(tmp_path: Path, name: str) -> None:
    assert refused_path(tmp_path / name) == ""


def test_the_characters_and_the_path_are_named(tmp_path: Path) -> None:
    text = refused_path(tmp_path / "lr=1e-3,b" / "profile")
    assert "takes no path with , = in it" in text
    assert f"{tmp_path}/lr=1e-3,b/profile; choose another output.dir" in text


def test_a_link_is_judged_by_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "a=b").mkdir()
    (tmp_path / "plain").symlink_to("a=b")
    (tmp_path / "link=odd").symlink_to("folder")
    assert "takes no path with = in it" in refused_path(tmp_path / "plain")
    assert refused_path(tmp_path / "link=odd") == ""


def test_the_working_directory_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / "a=b"
    odd.mkdir()
    monkeypatch.chdir(odd)
    assert "start qvl from another folder" in refused_path(Path("run"))
    assert "start qvl from another folder" in refused_path(tmp_path / "run")


def test_a_working_directory_that_is_gone_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert refused_path(tmp_path / "run") == ""
    assert refused_path(Path("run")) == ""


def test_the_characters_are_those_of_mindspores_own_code() -> None:
    """A release that takes more, or fewer, is noticed here."""
    pytest.importorskip("mindspore")
    from mindspore.profiler.common.path_manager import PathManager

    check = PathManager.check_input_directory_path
    for code in [*range(32, 0x180), 0x4E00, 0x9FA5, 0x9FA6, 0xFF0C]:
        path = f"/runs/a{chr(code)}b"
        try:
            check(path)
        except Exception:
            taken = False
        else:
            taken = True
        assert (refused_path(Path(path)) == "") == taken, hex(code)
