"""Starters, decoders, and packages that are installed twice."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from qvl_core.cli.doctor import packages, programs


def test_starters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(programs.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(programs.importlib.util, "find_spec", lambda name: None)
    assert programs.check_starters({"PATH": ""}).level == "warn"
    (tmp_path / "mpiexec").touch()
    row = programs.check_starters({"PATH": ""})
    assert (row.level, "mpi4py is not installed" in row.evidence) == ("warn", True)
    monkeypatch.setattr(programs.importlib.util, "find_spec", lambda name: object())
    assert programs.check_starters({"PATH": ""}).level == "ok"


@pytest.mark.parametrize(
    ("absent", "level", "said"),
    [
        ({"qvl-data", "qvl-eval"}, "skipped", "nothing decodes"),
        ({"av"}, "fail", "av not installed"),
        ({"av", "pillow"}, "fail", "pillow and av not installed"),
    ],
)
def test_decoders_that_are_not_there(monkeypatch: pytest.MonkeyPatch, absent: set[str], level: str, said: str) -> None:
    monkeypatch.setattr(programs, "installed_version", lambda name: None if name in absent else "1")
    row = programs.check_decoders({})
    assert row.level == level
    assert said in row.evidence


def test_decoders_that_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "installed_version", lambda name: "1")
    failing = subprocess.CompletedProcess([], 1, "", "Traceback\nImportError: libavcodec.so\n")
    monkeypatch.setattr(programs.subprocess, "run", lambda *_, **__: failing)
    row = programs.check_decoders({})
    assert (row.level, row.evidence) == ("fail", "ImportError: libavcodec.so")

    def never(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("python", 20)

    monkeypatch.setattr(programs.subprocess, "run", never)
    assert programs.check_decoders({}).level == "fail"


def test_a_package_that_is_installed_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Copy:
        def __init__(self, version: str, folder: str) -> None:
            self.version, self.metadata, self._folder = version, {"Name": "qvl_core"}, folder

        def locate_file(self, name: str) -> str:
            return self._folder

    one, other = Copy("0.1.0", "/a"), Copy("0.2.0", "/b")
    monkeypatch.setattr(packages.metadata, "distributions", lambda: [one, other])
    row = packages.check_copies()
    assert row.level == "fail"
    assert "0.1.0 in /a, 0.2.0 in /b" in row.evidence
    monkeypatch.setattr(packages.metadata, "distributions", lambda: [one, one])
    assert packages.check_copies().level == "ok"
