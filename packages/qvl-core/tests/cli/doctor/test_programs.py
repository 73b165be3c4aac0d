"""Starters, decoders, and packages that are installed twice."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path

import pytest
from qvl_core.cli.doctor import packages, programs
from qvl_core.errors import NotInstalledError
from qvl_core.launch import processes


def test_starters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(programs.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert programs.check_starters({"PATH": ""}).level == "warn"
    (tmp_path / "mpiexec").touch()
    row = programs.check_starters({"PATH": ""})
    assert (row.level, "mpi4py is not installed" in row.evidence) == ("warn", True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert programs.check_starters({"PATH": ""}).level == "ok"


@pytest.mark.parametrize(
    ("absent", "level", "said"),
    [
        ({"qvl-data", "qvl-eval"}, "skipped", "nothing decodes"),
        ({"av"}, "skipped", "requirements; av not installed"),
        ({"av", "pillow"}, "skipped", "pillow and av not installed"),
    ],
)
def test_decoders_that_are_not_there(monkeypatch: pytest.MonkeyPatch, absent: set[str], level: str, said: str) -> None:
    monkeypatch.setattr(programs, "installed_version", lambda name: None if name in absent else "1")
    row = programs.check_decoders({})
    assert row.level == level
    assert said in row.evidence


def _ends(code: int, stderr: str = ""):
    return lambda command, environment, deadline_s: subprocess.CompletedProcess(command, code, "", stderr)


def _never(command, environment, deadline_s):
    raise subprocess.TimeoutExpired(command, deadline_s)


def test_decoders_that_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "installed_version", lambda name: "1")
    row = programs.check_decoders({}, _ends(1, "Traceback\nImportError: libavcodec.so\n"))
    assert (row.level, row.evidence) == ("fail", "ImportError: libavcodec.so")
    assert programs.check_decoders({}, _never).level == "fail"


@pytest.mark.parametrize(
    ("run", "wanted", "level", "said"),
    [
        (_ends(0), True, "ok", "rightly"),
        (_ends(1, "no room in /dev/shm\n-----\n"), False, "warn", "no room"),
        (_ends(1, "AssertionError: [1.0]\n-----\n"), True, "fail", "AssertionError: [1.0]"),
        (_never, True, "fail", "did not meet"),
    ],
)
def test_two_processes_that_meet_or_do_not(monkeypatch: pytest.MonkeyPatch, run, wanted, level, said) -> None:
    monkeypatch.setattr(processes, "real_command", lambda command, path: tuple(command))
    row = programs.check_two_processes({"PATH": ""}, wanted=wanted, run=run)
    assert (row.level, said in row.evidence) == (level, True)
    assert bool(row.fix) == (level != "ok")


def test_two_real_processes_add_their_numbers_up() -> None:
    pytest.importorskip("mpi4py")
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    row = programs.check_two_processes(environment, wanted=True)
    assert row.level == "ok", row.evidence


def test_without_mpi_one_process_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(command: object, path: str) -> None:
        raise NotInstalledError("mpi4py is not installed\n  fix: pip install it")

    monkeypatch.setattr(processes, "real_command", absent)
    assert programs.check_two_processes({"PATH": ""}, wanted=False).level == "skipped"
    row = programs.check_two_processes({"PATH": ""}, wanted=True)
    assert (row.level, row.evidence, "qvl-core[mpi]" in row.fix) == ("fail", "mpi4py is not installed", True)


def test_a_recorder_that_is_asked_for_and_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert programs.check_trackers(tensorboard=True).level == "warn"
    assert programs.check_trackers(tensorboard=False).level == "ok"


DASHES = "-" * 74
READ_ONLY = f"""{DASHES}
PMIx detected a call to mkdir was unable to create the desired directory:

  Directory: /x/ompi.1
  Error:     Read-only file system

Please check to ensure you have adequate permissions to perform
the desired operation.
{DASHES}
"""
TRACEBACK = f"""Traceback (most recent call last):
  File x
ImportError: libmpi.so.40: cannot open
{DASHES}
prterun noticed that process rank 0 exited
{DASHES}
"""


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        (READ_ONLY, "the desired directory: Directory: /x/ompi.1 Error: Read-only file system"),
        (TRACEBACK, "ImportError: libmpi.so.40: cannot open"),
        ("a single line\n", "a single line"),
        (f"{DASHES}\n", "exit code 1"),
    ],
)
def test_what_mpiexec_complains_of_is_told_whole(monkeypatch: pytest.MonkeyPatch, stderr: str, said: str) -> None:
    monkeypatch.setattr(processes, "real_command", lambda command, path: command)
    monkeypatch.setattr("qvl_core.launch_plan.mpiexec", lambda ranks, program: ("mpiexec", *program))
    done = subprocess.CompletedProcess([], 1, "", stderr)
    row = programs.check_two_processes({}, wanted=False, run=lambda *_: done)
    assert said in row.evidence
    assert "\n" not in row.evidence


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


def test_the_real_decoders_decode_the_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "DEADLINE_S", 600.0)
    assert programs.check_decoders(dict(os.environ)).level == "ok"


def test_the_state_of_a_checkout(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").write_text("")
    (tmp_path / "bin" / "git").chmod(0o755)
    environment = {"PATH": str(tmp_path / "bin")}

    def run(*_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 0, "abc123-dirty\n", "")

    code = tmp_path / "src" / "x.py"
    assert "a checkout at abc123-dirty" in programs.check_tools(environment, run, code).evidence
    assert "checkout" not in programs.check_tools(environment, run, tmp_path / "site-packages" / "x.py").evidence
