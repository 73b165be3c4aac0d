"""Starting one command with everything below it, and ending all of it: nothing of a run may outlive its launcher."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import util
from pathlib import Path

from qvl_core.errors import NotInstalledError
from qvl_core.launch.proc import Status, all_statuses, family, status_of

# Shared memory where there is some: what lies there is never written to a disk.
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (the folder in it is made by mkdtemp)
_FOLDER_PREFIX = "qvl-board-"
_OWNER_FILE = "launcher"
_PR_SET_PDEATHSIG = 1
# What a command started by `spawn` does not see, and what it ends at.
_BLOCKED = (signal.SIGINT, signal.SIGTERM)
_END = signal.SIGHUP
_TERM_GRACE_S = 2.0
_KILL_PATIENCE_S = 5.0
_PERIOD_S = 0.05
_VERSION_PATIENCE_S = 20.0
INSTALL_MPI = (
    "  fix: pip install 'qvl-train[mpi]'\n"
    "       (mpi4py and Open MPI, without a system package; or run in one process: layout of tp 1, pp 1, dp 1)"
)


def temporary_folder() -> Path:
    """Make a folder for what only lives as long as the run; remove those of launchers that were killed."""
    base = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
    for folder in base.glob(f"{_FOLDER_PREFIX}*"):
        if _owner_is_gone(folder):
            shutil.rmtree(folder, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=base))
    status = status_of(os.getpid())
    (made / _OWNER_FILE).write_text(f"{os.getpid()} {status.started if status else 0} {_process_numbers()}")
    return made


def _owner_is_gone(folder: Path) -> bool:
    try:
        number, started, numbers = (folder / _OWNER_FILE).read_text().split()
        status = status_of(int(number))
    except (OSError, ValueError):
        # Another user's, or just being made.
        return False
    # In another container the same number means another process.
    return numbers == _process_numbers() and (status is None or status.started != int(started))


def _process_numbers() -> str:
    """Name the container whose process numbers these are."""
    return str(Path("/proc/self/ns/pid").readlink())


def find_program(name: str, path: str) -> str:
    """Give mpiexec or msrun: that of this Python's environment, else the first on PATH.

    Raises NotInstalledError where it is missing, or cannot be what the workers need.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which(name, path=path)
    if name == "mpiexec":
        return _usable_mpiexec(found)
    if found is None:
        raise NotInstalledError(
            f"{name} is not installed: it comes with MindSpore and starts the processes on Ascend\n"
            "  fix: install the MindSpore build that pairs with your CANN, into the environment that runs qvl"
        )
    return found


def real_command(command: Sequence[str], path: str) -> tuple[str, ...]:
    """Give the plan's command as it is started here: with the programs of this Python's environment.

    Raises NotInstalledError where something is missing.
    """
    program = find_program(command[0], path)
    if command[0] != "mpiexec":
        # msrun takes `python` from PATH, and runs anything of another name as a script of it.
        return (program, *command[1:])
    # Open MPI refuses to run as root, in a container too, unless it is told that this is meant.
    root = ("--allow-run-as-root",) if os.geteuid() == 0 else ()
    return (program, *root, *(sys.executable if word == "python" else word for word in command[1:]))


def _usable_mpiexec(found: str | None) -> str:
    if util.find_spec("mpi4py") is None:
        raise NotInstalledError(f"several processes on CPU talk through MPI; mpi4py is not installed\n{INSTALL_MPI}")
    if found is None:
        raise NotInstalledError(
            f"several processes on CPU are started by mpiexec, which is not installed\n{INSTALL_MPI}"
        )
    said = _version(found)
    if "open mpi" not in said.lower() and "open-mpi" not in said.lower():
        first = next(iter(said.splitlines()), "nothing")[:100]
        raise NotInstalledError(f"{found} is not Open MPI's (it says: {first})\n{INSTALL_MPI}")
    return found


def _version(program: str) -> str:
    try:
        done = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=_VERSION_PATIENCE_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout or done.stderr


def spawn(command: Sequence[str], environment: Mapping[str, str], output: int) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, told by the kernel to end when this process is gone.

    In a session of its own, Ctrl-C reaches this process alone, and whatever the command starts can be found again.
    It does not see SIGINT and SIGTERM: a scheduler may send them to all processes of a job, and mpiexec would end the
    workers within a second or two, in the middle of their last save. Workers have to unblock them for themselves.
    """
    return subprocess.Popen(
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_die_with_parent(os.getpid()),
    )


def _die_with_parent(parent: int) -> Callable[[], None]:
    # Looked up before the fork: after it, nothing may be loaded.
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
        prctl(_PR_SET_PDEATHSIG, _END)
        if os.getppid() != parent:
            os._exit(1)

    return ask


def session_members(session: int) -> tuple[Status, ...]:
    """Give every process that a command started by `spawn` has below it, itself included."""
    return tuple(status for status in all_statuses() if status.session == session)


def end_session(process: subprocess.Popen[bytes]) -> None:
    """End the command and everything below it: SIGTERM, after 2 s SIGKILL. Returns when none is left."""
    if process.poll() is None or session_members(process.pid):
        send_signal(_END, [process.pid] if process.poll() is None else [])
        _send(signal.SIGTERM, session_members(process.pid))
        if not _gone(process, _TERM_GRACE_S):
            # More than once: what is killed may just have started another.
            deadline = time.monotonic() + _KILL_PATIENCE_S
            while time.monotonic() < deadline:
                _send(signal.SIGKILL, session_members(process.pid))
                if _gone(process, _PERIOD_S * 4):
                    break
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=_KILL_PATIENCE_S)


def kill_strays(workers: Mapping[int, int]) -> None:
    """Kill what is left of these processes (number: start), with what they have started; they were asked before."""
    for number, started in workers.items():
        status = status_of(number)
        if status is not None and status.started == started:
            send_signal(signal.SIGKILL, [one.process for one in family(number, all_statuses())])


def send_signal(number: int, processes: Iterable[int]) -> None:
    """Send a signal to those that are still there."""
    for process in processes:
        with suppress(OSError):
            os.kill(process, number)


def _send(number: signal.Signals, members: Iterable[Status]) -> None:
    processes = [status.process for status in members]
    send_signal(number, processes)
    # A stopped process does not even see SIGTERM.
    send_signal(signal.SIGCONT, processes)


def _gone(process: subprocess.Popen[bytes], patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while process.poll() is None or session_members(process.pid):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_PERIOD_S)
    return True
