"""The logs of the ranks: where they lie, following one while it grows, and the end of one for an error message."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TextIO

LAUNCHER_LOG = "launcher.log"
# More than this of a log's end is not read for a message.
_END_BYTES = 65536
# What `open_log` begins a section with.
_HEAD = re.compile(r"--- \d{4}-\d\d-\d\d .* process \d+: ")
# What faulthandler begins the stack of a thread with.
_STACK = re.compile(r"(Current thread|Thread) 0x")
_MAIN_FRAME = "in _run_module_as_main"


def rank_log(folder: Path, rank: int) -> Path:
    """Name the log of a rank."""
    return folder / f"rank_{rank:03d}.log"


def open_log(path: Path, command: str) -> int:
    """Open a log for appending, begin a new section in it, and give the descriptor."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o664)
    now = time.strftime("%Y-%m-%d %H:%M:%S %z")
    os.write(descriptor, f"--- {now} process {os.getpid()}: {command}\n".encode("utf-8", "replace"))
    return descriptor


def last_lines(path: Path, number: int) -> tuple[str, ...]:
    """Give the last lines of a log's last section, without its head; none where it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _END_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ()
    lines = text.splitlines()
    heads = [index for index, line in enumerate(lines) if _HEAD.match(line)]
    return tuple(lines[heads[-1] + 1 if heads else 0 :][-number:])


def stack_top(path: Path, number: int) -> tuple[str, ...]:
    """Give the innermost frames of the stack that faulthandler has written last for the main thread."""
    found: tuple[str, ...] = ()
    frames: list[str] = []
    for line in last_lines(path, _END_BYTES):
        if _STACK.match(line):
            frames = []
        elif line.startswith("  File "):
            frames.append(line.strip())
            # The main thread's outermost frame; which thread a signal interrupts is chance.
            if line.endswith(_MAIN_FRAME):
                found = tuple(frames[:number])
    return found


def count_stacks(path: Path) -> int:
    """Count the stacks of the main thread that faulthandler has written whole, as far as the log's end is read."""
    return sum(line.endswith(_MAIN_FRAME) for line in last_lines(path, _END_BYTES))


class LogTail:
    """Copies what is appended to a log to the screen, whole lines only; what was there before is left out."""

    def __init__(self, path: Path, screen: TextIO | None) -> None:
        self._path = path
        self._screen = screen
        self._offset = path.stat().st_size if path.exists() else 0
        self._held = b""
        self._header = True

    def read(self) -> None:
        """Take in what is new, and keep it."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
        except FileNotFoundError:
            return
        self._offset += len(new)
        self._held += new

    def stop(self) -> None:
        """Show nothing more."""
        self._screen = None

    def show(self, until: int | None = None) -> None:
        """Print the whole lines that were taken in, up to byte `until` of the log: a traceback follows there."""
        held = self._held
        if until is not None:
            held = held[: max(0, until - (self._offset - len(self._held)))]
        whole = held[: held.rfind(b"\n") + 1]
        self._held = self._held[len(whole) :]
        lines = whole.decode("utf-8", "replace").splitlines(keepends=True)
        if self._header and lines:
            # The line that the worker begins its part of the log with.
            lines, self._header = lines[1:], False
        if lines and self._screen is not None:
            self._screen.write("".join(lines))
            self._screen.flush()
