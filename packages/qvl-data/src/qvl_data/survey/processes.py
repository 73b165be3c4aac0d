"""Shares of a survey in processes of their own.

Started as programs, not forked: the process that asks may have threads and libraries that do not survive a fork.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any

from qvl_core.errors import EXIT_WRONG_INPUT, RunError

from qvl_data.child_program import child_command
from qvl_data.survey.job import SurveyJob

MOST_PROCESSES = 16
"""Each reads all records and judges its share, so ever more processes gain ever less."""


def usable_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def chunks_in_order(job: SurveyJob, shares: int) -> Iterator[dict[str, Any]]:
    """Give the chunks of all shares, chunk 0 first. Raises RunError if a process dies or fails.

    A share that is ahead waits: at most a few chunks of each are held.
    """
    workers = [_Share(job, share, shares) for share in range(shares)]
    try:
        number = 0
        ended = [False] * shares
        while not all(ended):
            share = number % shares
            chunk = None if ended[share] else workers[share].next()
            if chunk is None:
                ended[share] = True
            else:
                yield chunk
            number += 1
    finally:
        for worker in workers:
            worker.stop()


class _Share:
    """One process and the thread that reads what it says."""

    def __init__(self, job: SurveyJob, share: int, shares: int) -> None:
        self._name = f"process {share + 1} of {shares} that checks records"
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            child_command("qvl_data.survey.worker", str(share), str(shares)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            encoding="utf-8",
            # Ctrl-C goes to the process that asked, which ends this one.
            start_new_session=True,
        )
        assert self._process.stdin is not None
        self._lines: queue.Queue[str | None] = queue.Queue(maxsize=4)
        self._errors: list[str] = []
        self._is_done = False
        self._is_stopped = threading.Event()
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()
        threading.Thread(target=self._read_errors, args=(self._process.stderr,), daemon=True).start()
        # One that has died already is told of by `next`, with what it said.
        with suppress(BrokenPipeError):
            self._process.stdin.write(job.to_json() + "\n")
            self._process.stdin.close()

    def next(self) -> dict[str, Any] | None:
        """Give the next chunk, None after the last. Raises RunError where the process ends before it says so."""
        line = self._lines.get()
        if line is not None:
            found: dict[str, Any] | None = json.loads(line)
            self._is_done = found is None
            return found
        code = self._process.wait()
        if code or not self._is_done:
            said = "".join(self._errors).strip()
            how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code} and its work not done"
            raise RunError(said if code == EXIT_WRONG_INPUT and said else f"{self._name} {how}\n{said}".strip())
        return None

    def stop(self) -> None:
        """End the process if it is still there."""
        self._is_stopped.set()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def _read(self, source: IO[str] | None) -> None:
        assert source is not None
        with source:
            for line in source:
                if not self._put(line):
                    return
        self._put(None)

    def _put(self, line: str | None) -> bool:
        while not self._is_stopped.is_set():
            try:
                self._lines.put(line, timeout=0.5)
            except queue.Full:
                continue
            return True
        return False

    def _read_errors(self, source: IO[str] | None) -> None:
        assert source is not None
        with source:
            for line in source:
                # The end of a long traceback is what says what happened.
                self._errors = [*self._errors[-50:], line]
