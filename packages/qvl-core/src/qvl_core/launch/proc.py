"""What Linux says about processes, from /proc. A process is known by its number and its start: numbers are reused."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Status:
    """One process. `started` is in clock ticks since the machine's start, `cpu_s` user and system time."""

    process: int
    parent: int
    session: int
    state: str
    cpu_s: float
    started: int


def status_of(process: int) -> Status | None:
    """Give a process's status; None where there is no such process, or it has ended and nobody has asked how."""
    try:
        text = (PROC / str(process) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name in parentheses may hold blanks and parentheses itself.
    fields = text[text.rindex(")") + 2 :].split()
    if fields[0] in "ZX":
        return None
    return Status(
        process=process,
        parent=int(fields[1]),
        session=int(fields[3]),
        state=fields[0],
        cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS,
        started=int(fields[19]),
    )


def all_statuses() -> tuple[Status, ...]:
    """Give the status of every process of this machine (of this container)."""
    found = (status_of(int(entry.name)) for entry in PROC.iterdir() if entry.name.isdecimal())
    return tuple(status for status in found if status is not None)


def family(process: int, statuses: Iterable[Status]) -> tuple[Status, ...]:
    """Give the process and all that descend from it."""
    children: dict[int, list[Status]] = {}
    members: list[Status] = []
    for status in statuses:
        children.setdefault(status.parent, []).append(status)
        if status.process == process:
            members.append(status)
    for member in members:
        members += children.get(member.process, [])
    return tuple(members)


def busy_state(process: int) -> str:
    """Give R or D where any thread of a process has work: it runs, waits for a core or for storage. Else "".

    The state of a process is that of its main thread, which sleeps while it waits for another one's result.
    """
    try:
        found = {_state_of(entry / "stat") for entry in (PROC / str(process) / "task").iterdir()}
    except OSError:
        return ""
    return next((state for state in "RD" if state in found), "")


def _state_of(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        # It ended since the folder was listed.
        return ""
    return text[text.rindex(")") + 2]


def disk_bytes(process: int) -> int:
    """Give how much a process has read from and written to storage; 0 where the system does not say."""
    try:
        text = (PROC / str(process) / "io").read_text(encoding="ascii")
    except OSError:
        return 0
    values = dict(line.split(": ") for line in text.splitlines())
    return int(values.get("read_bytes", 0)) + int(values.get("write_bytes", 0))


def command_of(process: int) -> str:
    """Give the command line of a process, "" where it is not to be read."""
    try:
        words = (PROC / str(process) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return " ".join(word.decode("utf-8", "replace") for word in words if word)


def started_at(process: int) -> float:
    """Give the moment of CLOCK_MONOTONIC at which a process started, to about 10 ms; now where it is gone."""
    status, now = status_of(process), time.monotonic()
    if status is None:
        return now
    return now - (time.clock_gettime(time.CLOCK_BOOTTIME) - status.started / _TICKS)
