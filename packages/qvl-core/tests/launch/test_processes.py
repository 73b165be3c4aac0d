"""The programs that start ranks: found in this environment or named as missing; ended with all they have started."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from qvl_core.errors import NotInstalledError
from qvl_core.launch import processes
from qvl_core.launch.proc import family, started_at, status_of


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Give a function that puts programs on a PATH of the test's own, and make Python's own folder an empty one."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "path").mkdir()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setattr(processes.util, "find_spec", lambda name: name)

    def put(name: str, says: str, folder: str = "path") -> Path:
        path = tmp_path / folder / name
        path.write_text(f"#!/bin/sh\necho '{says}'\n")
        path.chmod(0o755)
        return path

    put.path = str(tmp_path / "path")
    return put


COMMAND = ("mpiexec", "-n", "2", "python", "-m", "qvl_core.launch.worker", "python.toml")


def test_mpiexec_of_this_environment_comes_before_that_of_the_path(programs, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = programs("mpiexec", "mpiexec (Open MPI) 5.0.11")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert processes.real_command(COMMAND, programs.path)[0] == str(on_path)
    beside = programs("mpiexec", "mpirun (Open MPI) 4.1.4", "bin")
    assert processes.real_command(COMMAND, programs.path) == (
        *(str(beside), "-n", "2", sys.executable, "-m", "qvl_core.launch.worker", "python.toml"),
    )


def test_only_root_is_allowed_to_run_as_root(programs, monkeypatch: pytest.MonkeyPatch) -> None:
    programs("mpiexec", "mpiexec (OpenRTE / Open MPI) 5")
    for user, allowed in ((0, True), (1000, False)):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        assert ("--allow-run-as-root" in processes.real_command(COMMAND, programs.path)) is allowed


def test_what_is_missing_is_named_with_the_pip_command(programs, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotInstalledError, match=r"mpiexec, .* is not installed\n  fix: pip install 'qvl-train\[mpi\]'"):
        processes.real_command(COMMAND, programs.path)
    programs("mpiexec", "HYDRA build details: Version 4.1")
    with pytest.raises(NotInstalledError, match=r"is not Open MPI's \(it says: HYDRA build details"):
        processes.real_command(COMMAND, programs.path)
    monkeypatch.setattr(processes.util, "find_spec", lambda name: None)
    with pytest.raises(NotInstalledError, match=r"mpi4py is not installed\n  fix: pip install 'qvl-train\[mpi\]'"):
        processes.real_command(COMMAND, programs.path)
    with pytest.raises(NotInstalledError, match="msrun is not installed: it comes with MindSpore"):
        processes.real_command(("msrun", "python", "x"), programs.path)


def test_msrun_gets_python_by_name_and_finds_it_on_the_path(programs) -> None:
    msrun = programs("msrun", "", "bin")
    assert processes.real_command(("msrun", "--join=True", "python", "-m", "x"), programs.path) == (
        *(str(msrun), "--join=True", "python", "-m", "x"),
    )


# Two children of its own: one that ignores SIGTERM, one in a process group of its own.
FAMILY = """
import os, signal, subprocess, sys, time
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", deaf])
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], process_group=0) if sys.version_info >= (
    3, 11) else subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], preexec_fn=os.setpgrp)
time.sleep(600)
"""


@pytest.fixture
def running(tmp_path: Path):
    output = tmp_path / "output"
    with output.open("wb") as file:
        process = processes.spawn([sys.executable, "-c", FAMILY], os.environ, file.fileno())
    deadline = time.monotonic() + 120
    while len(processes.session_members(process.pid)) < 3 or "deaf" not in output.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield process
    processes.end_session(process)


def test_all_that_a_command_has_started_is_ended_whatever_it_does(running: subprocess.Popen[bytes]) -> None:
    members = processes.session_members(running.pid)
    assert len(members) == 3
    assert {one.process for one in family(running.pid, members)} == {one.process for one in members}
    processes.end_session(running)
    assert processes.session_members(running.pid) == ()
    assert [status_of(one.process) for one in members] == [None] * 3
    assert running.returncode is not None
    # Again: there is nothing left to do.
    processes.end_session(running)


def test_a_process_started_when_it_did(running: subprocess.Popen[bytes]) -> None:
    assert 0 <= time.monotonic() - started_at(running.pid) < 600
    assert started_at(running.pid) >= started_at(os.getpid())
