"""Child processes of the doctor: ended with all that they started after a deadline, and read with bounds."""

from __future__ import annotations

import contextlib
import ctypes
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
_PR_SET_PDEATHSIG = 1
# What a child left behind may hold its pipes open: they are read for this long after its end.
_AFTERWARDS_S = 0.5

Runner = Callable[[Sequence[str], Mapping[str, str], float], "subprocess.CompletedProcess[str]"]


def run_child(
    command: Sequence[str], environment: Mapping[str, str], deadline_s: float, *, quiet_s: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command without input; bytes that are no text are replaced, output beyond 1 MiB is cut.

    Raises OSError where it cannot be started, TimeoutExpired after the deadline or where its output does not end; and
    with `quiet_s` as soon as the process has neither computed nor read anything for that long.
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
    """Tells whether a process has done nothing for some time: no processor time, no bytes read or written."""

    def __init__(self, process: int, quiet_s: float) -> None:
        self._process, self._quiet_s = process, quiet_s
        self._work, self._since = work_of(process), time.monotonic()

    def lasts(self) -> bool:
        """Look at the process; tell whether it was quiet for the whole time."""
        work, now = work_of(self._process), time.monotonic()
        if work != self._work or work is None:
            self._work, self._since = work, now
        return now - self._since >= self._quiet_s


def work_of(process: int) -> tuple[int, ...] | None:
    """Give what only grows while a process works: clock ticks, its ended children's too, and bytes; None unknown."""
    folder = Path("/proc") / str(process)
    try:
        # proc(5): after the name in brackets, fields 14 to 17 are utime, stime, cutime and cstime.
        ticks = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[11:15]
        moved = re.findall(r"[rw]char: (\d+)", (folder / "io").read_text(encoding="ascii"))
    except OSError:
        return None
    return tuple(map(int, (*ticks, *moved)))


def _end_with_us() -> Callable[[], None]:
    """Let the kernel end the child where the thread that waits for it is gone: after Ctrl-C nobody else would."""
    # Looked up before the fork: after it, nothing may be loaded.
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


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
