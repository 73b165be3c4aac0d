"""Checks that raise, hang or print without end, children that leave others behind: the doctor goes on."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from qvl_core.cli.doctor import mindspore, programs
from qvl_core.cli.doctor.child import OUTPUT_LIMIT, Quiet, last_line, run_child, work_of
from qvl_core.cli.doctor.guard import Check, guarded
from qvl_core.cli.doctor.row import Level, Row
from qvl_core.launch.proc import status_of

GOOD = Row(check="x", level="ok", evidence="fine")


def _ends(process: int) -> bool:
    """Tell whether a process is gone, or nobody has asked how it ended, within two minutes."""
    deadline = time.monotonic() + 120
    while status_of(process) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    return status_of(process) is None


def test_rows_of_a_check_are_passed_on() -> None:
    assert guarded(Check(name="x", look=lambda: GOOD)) == [GOOD]
    assert guarded(Check(name="x", look=lambda: (GOOD, GOOD))) == [GOOD, GOOD]


@pytest.mark.parametrize(
    "error", [ValueError("odd"), OSError(5, "Input/output error"), SystemExit(3), RecursionError()]
)
def test_a_check_that_raises_is_a_row_with_a_fix(error: BaseException) -> None:
    def look() -> Row:
        raise error

    (row,) = guarded(Check(name="x", look=look))
    assert (row.check, row.level) == ("x", "warn")
    assert type(error).__name__ in row.evidence
    assert row.fix


def test_a_check_that_nothing_can_be_said_without_fails() -> None:
    def look() -> Row:
        raise ModuleNotFoundError("half of a package")

    (row,) = guarded(Check(name="x", look=look, needed=True))
    assert (row.level, row.fix.startswith("pip install --force-reinstall")) == ("fail", True)


def _lacking(level: Level, *modules: str) -> list[Row]:
    evidence = f"Python 3.11.4 (/opt/queue/bin/python); it lacks {', '.join(modules)}: built on a machine without x"
    return [Row(check="python", level=level, evidence=evidence if modules else evidence.partition(";")[0])]


@pytest.mark.parametrize("module", ["queue", "distutils", "sqlite3", "_ssl"])
@pytest.mark.parametrize("python", [[], _lacking("ok"), _lacking("fail"), _lacking("fail", "ctypes", "zlib")])
def test_a_module_that_the_row_of_python_does_not_name_is_told_by_the_check(module: str, python: list[Row]) -> None:
    def look() -> Row:
        raise ImportError(f"cannot import name 'x' from {module!r} (/x/li/{module}.py)", name=module)

    (row,) = guarded(Check(name="x", look=look), python)
    assert (row.level, f"/x/li/{module}.py" in row.evidence) == ("warn", True)
    # As of Python 3.12, distutils is no part of it.
    assert (f"rename a {module}.py" in row.fix) == (module in sys.stdlib_module_names)
    assert row.fix
    (row,) = guarded(Check(name="x", look=look, needed=True), python)
    assert row.level == "fail"


@pytest.mark.parametrize("module", ["ssl", "_ssl", "ctypes.util", "_ctypes"])
def test_a_module_that_the_row_of_python_names_is_told_once(module: str) -> None:
    def look() -> Row:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    (row,) = guarded(Check(name="x", look=look, needed=True), _lacking("fail", "ctypes", "ssl"))
    assert (row.level, row.evidence) == ("skipped", "an earlier check failed: python")
    (row,) = guarded(Check(name="x", look=look), _lacking("warn", "ctypes", "ssl"))
    assert (row.level, row.evidence) == ("skipped", "an earlier check warned: python")
    # Nothing would fail then, and the command would end as if all were well.
    (row,) = guarded(Check(name="x", look=look, needed=True), _lacking("warn", "ctypes", "ssl"))
    assert (row.level, "could not be looked at" in row.evidence) == ("fail", True)


def test_a_check_that_hangs_is_a_row_after_its_deadline() -> None:
    never = threading.Event()

    def look() -> Row:
        never.wait()
        return GOOD

    (row,) = guarded(Check(name="x", look=look, deadline_s=0.2))
    never.set()
    assert (row.level, "no answer within" in row.evidence) == ("fail", True)
    assert row.fix


def test_a_child_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    program = (
        "import subprocess, sys, time\n"
        "other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(note)!r}, 'w').write(str(other.pid))\n"
        "time.sleep(600)\n"
    )
    # A busy machine may take longer to start the two.
    for deadline_s in (5.0, 20.0, 80.0):
        with pytest.raises(subprocess.TimeoutExpired):
            run_child([sys.executable, "-c", program], os.environ, deadline_s)
        if note.exists() and note.read_text():
            break
    grandchild = int(note.read_text())
    assert _ends(grandchild)


def test_output_without_end_and_bytes_that_are_no_text_are_bounded() -> None:
    endless = "import sys\nwhile True: sys.stdout.buffer.write(b'\\xff' * 65536)"
    with pytest.raises(subprocess.TimeoutExpired):
        run_child([sys.executable, "-c", endless], os.environ, 1.0)
    much = f"import sys; sys.stdout.buffer.write(b'\\xff' * {3 * OUTPUT_LIMIT})"
    done = run_child([sys.executable, "-c", much], os.environ, 600.0)
    assert done.returncode == 0
    assert OUTPUT_LIMIT <= len(done.stdout) < 2 * OUTPUT_LIMIT
    assert set(done.stdout) == {"\ufffd"}


def test_a_child_that_leaves_its_pipes_to_another_is_not_waited_for() -> None:
    program = (
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); print(1)"
    )
    done = run_child([sys.executable, "-c", program], os.environ, 600.0)
    assert (done.returncode, done.stdout) == (0, "1\n")


def test_a_child_that_does_nothing_is_not_waited_for() -> None:
    program = "import threading; threading.Event().wait()"
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        run_child([sys.executable, "-c", program], os.environ, 1e6, quiet_s=0.5)
    assert caught.value.timeout < 1e6


def test_a_child_that_works_is() -> None:
    program = "import time\nwhile time.process_time() < 1.5: pass\nprint(1)"
    assert run_child([sys.executable, "-c", program], os.environ, 1e6, quiet_s=120.0).stdout == "1\n"


def test_what_a_child_of_the_child_computes_is_work_too() -> None:
    program = (
        "import subprocess, sys, threading\n"
        "work = 'import sys\\nprint(1, flush=True)\\nwhile True: pass'\n"
        "for apart in (False, True):\n"
        "    one = subprocess.Popen([sys.executable, '-c', work], stdout=-1, start_new_session=apart)\n"
        "    one.stdout.readline()\n"
        "    print(one.pid, flush=True)\n"
        "threading.Event().wait()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True, text=True)
    assert child.stdout is not None
    started = [int(child.stdout.readline()) for _ in range(2)]
    try:
        for one in started:
            # The other one is stopped, the child itself sleeps: all work that is seen is this one's.
            for other in started:
                os.kill(other, signal.SIGCONT if other == one else signal.SIGSTOP)
            before, own = work_of(child.pid), work_of(one)
            while work_of(one) == own:
                assert child.poll() is None
            assert work_of(child.pid) != before
    finally:
        for process in (*started, child.pid):
            os.kill(process, signal.SIGKILL)
        child.communicate()


def test_work_is_seen_as_processor_time_and_as_bytes(tmp_path: Path) -> None:
    before = work_of(os.getpid())
    assert before is not None
    (tmp_path / "x").write_bytes(bytes(1 << 16))
    after = work_of(os.getpid())
    assert after is not None
    assert sum(after) >= sum(before) + (1 << 16)
    # The number of a process that cannot be: nothing is known of it.
    assert work_of(2**31) is None


def test_a_process_of_which_nothing_is_known_is_not_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = Quiet(2**31, 5.0)
    for now in (1e9, 2e9):
        monkeypatch.setattr(time, "monotonic", lambda now=now: now)
        assert not quiet.lasts()


def test_the_last_line_says_what_failed() -> None:
    assert last_line(subprocess.CompletedProcess([], 1, "", "a\nImportError: x\n-----\n\n")) == "ImportError: x"
    assert last_line(subprocess.CompletedProcess([], -11, "ok", "")).startswith("ended by signal 11")
    assert last_line(subprocess.CompletedProcess([], 4, "", "")) == "exit code 4"


def test_a_child_ends_with_the_doctor(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    child = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    program = (
        "import os, sys, threading, time\n"
        "from pathlib import Path\n"
        "from qvl_core.cli.doctor.child import run_child\n"
        f"work = lambda: run_child([sys.executable, '-c', {child!r}], os.environ, 500.0)\n"
        "threading.Thread(target=work, daemon=True).start()\n"
        f"note = Path({str(note)!r})\n"
        "while not (note.exists() and note.read_text()): time.sleep(0.01)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=600)
    assert _ends(int(note.read_text()))


def test_a_system_without_the_call_that_ends_children_starts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert run_child([sys.executable, "-c", "print(1)"], {}, 600.0).stdout == "1\n"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EAGAIN, "ulimit -u"),
        (errno.ENOMEM, "no memory left"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EACCES, "let this user"),
    ],
)
@pytest.mark.parametrize("check", ["mindspore-run", "mpi-run", "decoders"])
def test_a_process_that_cannot_be_started_is_told_as_that(
    monkeypatch: pytest.MonkeyPatch, number: int, said: str, check: str
) -> None:
    def refused(*_: object) -> Any:
        raise OSError(number, os.strerror(number), "/usr/bin/python3")

    monkeypatch.setattr("qvl_core.launch.processes.real_command", lambda command, path: command)
    monkeypatch.setattr("qvl_core.launch_plan.mpiexec", lambda ranks, program: ("mpiexec", *program))
    monkeypatch.setattr(programs, "installed_version", lambda name: "1")
    row = {
        "mindspore-run": lambda: mindspore.check_run({}, refused),
        "mpi-run": lambda: programs.check_two_processes({}, wanted=True, run=refused),
        "decoders": lambda: programs.check_decoders({}, refused),
    }[check]()
    assert (row.check, row.level) == (check, "fail")
    assert row.evidence == f"/usr/bin/python3 cannot be started: {os.strerror(number)}"
    assert said in row.fix
