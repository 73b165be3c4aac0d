"""Decoding processes as seen from the caller: started once, asked many times, killed at the deadline.

A process is a fresh interpreter, not a fork: a fork of a process with MindSpore loaded may hang. It holds no state
between requests, so one that was killed is replaced and nothing is lost but the request.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from qvl_core.errors import RunError
from qvl_core.input_file import printable

from qvl_data.child_program import child_command
from qvl_data.media.error import MediaError, UncertainMediaError
from qvl_data.media.video_worker import HEADER

COMMAND = child_command("qvl_data.media.video_worker")
# Starting Python and loading FFmpeg takes a fifth of a second; a machine under load, a network disk, much longer.
_START_S = 120.0
# One that closed its pipe is about to be gone.
_END_S = 10.0
_PIECE_BYTES = 1 << 20


class _DeadlineError(Exception):
    """The process did not answer in time."""


class _DeadError(Exception):
    """The process ended."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a deed gave back, and the pixels it sent, frame by frame."""

    found: Mapping[str, Any]
    frames: Sequence[bytes]


class VideoProcess:
    """One decoding process. Not for several threads at a time."""

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        """Start it and wait until it is ready. Raises RunError if it does not get ready."""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests = self._process.stdin.fileno()
        self._answers = self._process.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN | select.POLLHUP)
        try:
            self._reply(time.monotonic() + _START_S)
        except (_DeadlineError, _DeadError):
            self.end(grace_s=_END_S)
            raise RunError(
                f"the process that decodes videos does not start: exit code {self._process.returncode}\n"
                f"  fix: see what `{shlex.join(command)} < /dev/null` says"
            ) from None
        except BaseException:
            self.end()
            raise

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def ask(self, request: Mapping[str, Any], *, timeout_s: float) -> Reply:
        """Have a request done. Raises MediaError for an unusable file, _DeadlineError and _DeadError."""
        line = json.dumps({**request, "timeout_s": timeout_s}).encode("ascii") + b"\n"
        try:
            # A request is shorter than a pipe's buffer or is read as it comes: the process reads in a thread.
            while line:
                line = line[os.write(self._requests, line) :]
        except BrokenPipeError:
            raise _DeadError from None
        return self._reply(time.monotonic() + timeout_s)

    def end(self, *, grace_s: float = 0.0) -> int | None:
        """Kill the process if it runs `grace_s` seconds on, and reap it.

        Gives None if it was killed, else its exit code, or minus the number of the signal that ended it.
        """
        code: int | None
        try:
            code = self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            code = None
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        return code

    def _reply(self, deadline: float) -> Reply:
        frames = []
        while True:
            kind, length = HEADER.unpack(self._read(HEADER.size, deadline))
            content = self._read(length, deadline)
            if kind == b"F":
                frames.append(content)
            elif kind == b"D":
                return Reply(found=json.loads(content), frames=frames)
            elif kind == b"E":
                raise MediaError(content.decode("utf-8", "replace"))
            else:
                raise RuntimeError(f"in the process that decodes videos:\n{content.decode('utf-8', 'replace')}")

    def _read(self, length: int, deadline: float) -> bytes:
        parts = []
        while length:
            left = deadline - time.monotonic()
            if left <= 0 or not self._poll.poll(left * 1000):
                raise _DeadlineError
            part = os.read(self._answers, min(length, _PIECE_BYTES))
            if not part:
                raise _DeadError
            parts.append(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class VideoProcesses:
    """Decoding processes for many threads: each request gets one to itself; idle ones wait for the next."""

    def __init__(self, *, command: Sequence[str] = COMMAND, limit: int) -> None:
        """Start none yet; run at most `limit` at a time."""
        self._command = tuple(command)
        self._owner = os.getpid()
        self._places = threading.BoundedSemaphore(limit)
        self._lock = threading.Lock()
        self._idle: list[VideoProcess] = []

    def ask(
        self, path: Path, request: Mapping[str, Any], *, timeout_s: float, limit: str = "data.video.timeout_s"
    ) -> Reply:
        """Have a request about the file done. Raises MediaError; waiting for a process does not count as time taken.

        `limit` is what people know the time by.
        """
        with self._places:
            process = self._take()
            try:
                reply = process.ask({**request, "path": str(path.absolute())}, timeout_s=timeout_s)
            except MediaError:
                self._give(process)
                raise
            except _DeadlineError:
                process.end()
                raise UncertainMediaError(_ending(None, path, timeout_s, limit)) from None
            except _DeadError:
                raise UncertainMediaError(_ending(process.end(grace_s=_END_S), path, timeout_s, limit)) from None
            except BaseException:
                process.end()
                raise
            self._give(process)
            return reply

    def close(self) -> None:
        """End every idle process. Does nothing in a fork of the process that started them."""
        if os.getpid() != self._owner:
            return
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            process.end()

    def _take(self) -> VideoProcess:
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                if process.is_alive:
                    return process
                process.end()
        return VideoProcess(self._command)

    def _give(self, process: VideoProcess) -> None:
        with self._lock:
            self._idle.append(process)


def shared_processes() -> VideoProcesses:
    """Give the decoding processes of this process, as many as it may use cores, at least two.

    They live as long as this process: starting one for each video would take longer than decoding it. A fork has its
    own, since pipes cannot be shared.
    """
    return _processes_of(os.getpid())


@cache
def _processes_of(pid: int) -> VideoProcesses:
    processes = VideoProcesses(limit=max(2, len(os.sched_getaffinity(0))))
    atexit.register(processes.close)
    return processes


def _ending(code: int | None, path: Path, timeout_s: float, limit: str) -> str:
    name = printable(path.name)
    if code in (None, -signal.SIGALRM):
        return (
            f"was not opened and decoded within {timeout_s:g} s ({limit}); the process that worked on {name} was killed"
        )
    if code == -signal.SIGKILL:
        return f"the process that decoded {name} was killed from outside; a machine out of memory does that"
    if code is not None and -code in set(signal.Signals):
        return f"the process that decoded {name} was ended by {signal.Signals(-code).name}: the file breaks the decoder"
    return f"the process that decoded {name} ended with exit code {code}: the file breaks the decoder"
