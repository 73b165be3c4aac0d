"""Child processes of the doctor: ended with all that they started after a deadline, and read with bounds."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from qvl_core.input_file import printable

# Nothing that the doctor asks says more; a broken program may print without end.
OUTPUT_LIMIT = 1 << 20
_GRACE_S = 1.0
# On the busiest machine a process that may run gets some time within this.
QUIET_S = 10.0
# Looks at the processes in that time: large machines have thousands, and all are read to find a child's children.
_LOOKS = 20
_PR_SET_PDEATHSIG = 1
_PROC = Path("/proc")
# What a child left behind may hold its pipes open: they are read for this long after its end.
_AFTERWARDS_S = 0.5

Runner = Callable[[Sequence[str], Mapping[str, str], float], "subprocess.CompletedProcess[str]"]


def run_child(
    command: Sequence[str], environment: Mapping[str, str], deadline_s: float, *, quiet_s: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command without input; bytes that are no text are replaced, output beyond 1 MiB is cut.

    Raises OSError where it cannot be started, TimeoutExpired after the deadline or where its output does not end; and
    with `quiet_s` as soon as neither the process nor one that it started has computed or read anything for that long.
    """
    child = subprocess.Popen(
        list(command),
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=_end_with_us(),
    )
    started = time.monotonic()
    quiet = Quiet(child.pid, quiet_s) if quiet_s is not None else None
    try:
        out, err = _read(child, started + deadline_s, quiet)
        if child.poll() is None:
            raise subprocess.TimeoutExpired(list(command), time.monotonic() - started)
    finally:
        _end(child)
    texts = (bytes(part).decode("utf-8", errors="replace") for part in (out, err))
    return subprocess.CompletedProcess(list(command), child.returncode, *texts)


def run_watched(
    command: Sequence[str], environment: Mapping[str, str], deadline_s: float
) -> subprocess.CompletedProcess[str]:
    """Run a command as `run_child` does, and give it up early where it hangs.

    An import from a slow disk may take a minute, and reads all the while; what sleeps in a lock or a driver does not.
    """
    return run_child(command, environment, deadline_s, quiet_s=QUIET_S)


class Quiet:
    """Tells whether a process and all that it started have done nothing for some time: see `work_of`."""

    def __init__(self, process: int, quiet_s: float) -> None:
        self._process, self._quiet_s = process, quiet_s
        self._work, self._since = work_of(process), time.monotonic()
        self._looked = self._since

    def lasts(self) -> bool:
        """Look at the process, not at each call; tell whether it was quiet for the whole time."""
        now = time.monotonic()
        if now - self._looked < self._quiet_s / _LOOKS:
            return False
        self._looked, work = now, work_of(self._process)
        if work != self._work or work is None:
            self._work, self._since = work, now
        return now - self._since >= self._quiet_s


def work_of(process: int) -> tuple[int, ...] | None:
    """Give what changes while a process, or one that it started, works; None where nothing is known of it.

    Sums of page faults, which is how libraries are read, of clock ticks, those of ended children too, and of bytes.
    """
    own = _counts(process)
    if not own:
        return None
    others = [counts for each in _started_by(process) if (counts := _counts(each))]
    return tuple(map(sum, zip(own, *others, strict=True)))


def _counts(process: int) -> tuple[int, ...]:
    """Give what one process has done, () where it is gone; its bytes are 0 where it belongs to another user."""
    fields = _stat(process)
    if not fields:
        return ()
    try:
        said = (_PROC / str(process) / "io").read_text(encoding="ascii", errors="replace")
    except OSError:
        said = ""
    moved = dict(re.findall(r"(?m)^(rchar|wchar|read_bytes): (\d+)", said))
    # proc(5), fields 10 and 12: minflt and majflt; 14 to 17: utime, stime, cutime and cstime.
    return tuple(
        int(each)
        for each in (
            *(fields[7], fields[9], *fields[11:15]),
            *(moved.get(name, 0) for name in ("rchar", "wchar", "read_bytes")),
        )
    )


def _started_by(process: int) -> list[int]:
    """Give the processes below this one, and those of its session whose parents have ended."""
    family: set[int] = {process}
    found: set[int] = {process}
    others = {int(each.name): _stat(int(each.name)) for each in _PROC.iterdir() if each.name.isdecimal()}
    others.pop(process, None)
    while found:
        # Fields 4 and 6: the parent, and the session, which has the number of the process that began it.
        found = {each for each, fields in others.items() if fields and {int(fields[1]), int(fields[3])} & family}
        found -= family
        family |= found
    return sorted(family - {process})


def _stat(process: int) -> list[str]:
    """Give the fields of a process from the third on, behind its name in brackets; [] where it is gone."""
    try:
        said = (_PROC / str(process) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return said.rpartition(")")[2].split()


def _end_with_us() -> Callable[[], None]:
    """Let the kernel end the child where the thread that waits for it is gone: after Ctrl-C nobody else would."""
    try:
        # Not every Python has it: one that was built without libffi is what the row of Python is about.
        import ctypes
    except ImportError:
        return lambda: None
    # Looked up before the fork: after it, nothing may be loaded.
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    # Linux alone has it.
    return (lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)) if prctl else (lambda: None)


def not_started(error: OSError) -> tuple[str, str]:
    """Say why a process could not be started, and what mends that."""
    fix = {
        errno.EAGAIN: "raise the limit of processes: ulimit -u, in a container --pids-limit",
        errno.ENOMEM: "end other programs: there is no memory left for a process more",
        errno.EMFILE: "raise the limit of open files: ulimit -n 65535",
    }.get(error.errno or 0, "let this user run the program that is named, with all folders above it, or reinstall it")
    return f"{error.filename or 'a process'} cannot be started: {error.strerror or error}"[:300], fix


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """Give the last line that a failed child wrote, of its errors if any; how it ended where it wrote none."""
    if done.returncode < 0 and not done.stderr.strip():
        return f"ended by signal {-done.returncode} ({signal.strsignal(-done.returncode) or 'unknown'})"
    lines = [line.strip() for text in (done.stdout, done.stderr) for line in text.splitlines() if line.strip(" \t-=*")]
    return printable(lines[-1], 300) if lines else f"exit code {done.returncode}"


def _read(child: subprocess.Popen[bytes], deadline: float, quiet: Quiet | None) -> tuple[bytearray, bytearray]:
    out, err = bytearray(), bytearray()
    assert child.stdout is not None
    assert child.stderr is not None
    with selectors.DefaultSelector() as ready:
        ready.register(child.stdout, selectors.EVENT_READ, out)
        ready.register(child.stderr, selectors.EVENT_READ, err)
        while ready.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in ready.select(min(left, 0.1)):
                part = os.read(key.fd, 65536)
                if part and len(key.data) < OUTPUT_LIMIT:
                    key.data.extend(part)
                elif not part:
                    ready.unregister(key.fileobj)
            if child.poll() is not None:
                deadline = min(deadline, time.monotonic() + _AFTERWARDS_S)
            elif quiet is not None and quiet.lasts():
                return out, err
    if child.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, deadline - time.monotonic()))
    return out, err


def _end(child: subprocess.Popen[bytes]) -> None:
    """End what is left of the child's session, and close its pipes. One that hangs in a driver is left behind."""
    running = child.poll() is None
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
        if running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_GRACE_S)
    for pipe in (child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()
