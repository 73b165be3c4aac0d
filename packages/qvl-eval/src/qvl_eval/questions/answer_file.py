"""The answers of `qvl infer --output`: one JSON object a line, in the order of the questions, only ever appended to.

A killed run has lost nothing that was written; the next one goes on behind it. Each row carries a key of its question
and of everything else that decides the answer, so that answers of two models never end in one file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

from qvl_core.durable import explained
from qvl_core.errors import OutputError, Problem
from qvl_core.input_file import printable

T = TypeVar("T")
_FIX = "choose another file: --output OTHER.jsonl"


class AnswerFile:
    """The file, open and locked. `done` rows are there already; `failed` of them hold an error.

    Raises OutputError for what cannot be written, is in use, or was not written by `qvl infer`.
    """

    def __init__(self, path: Path, run: str) -> None:
        self.path = path
        self._run = run
        self._keys: list[str] = []
        self.failed = 0
        self._file: BinaryIO

    @property
    def done(self) -> int:
        """Count the rows that were there when the file was opened."""
        return len(self._keys)

    def __enter__(self) -> AnswerFile:
        if self.path.exists() and not self.path.is_file():
            raise OutputError(Problem(where=str(self.path), message="is not a regular file", fix=_FIX))
        with explained(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
        try:
            self._lock()
            self._read()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def check(self, index: int, question_digest: str) -> None:
        """Raise OutputError if row `index`, which is there, answers another question or under other settings."""
        if self._keys[index] != self.key(question_digest):
            message = "was answered with other weights or settings, or the question has changed since"
            raise OutputError(Problem(where=f"{self.path}:{index + 1}", message=message, fix=_FIX))

    def key(self, question_digest: str) -> str:
        """Give the key of a question's row."""
        return hashlib.sha256(f"{self._run} {question_digest}".encode()).hexdigest()[:16]

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; it is on the disk when this returns. Raises RunError when the disk is full."""
        line = json.dumps(row, ensure_ascii=False) + "\n"
        with explained(self.path):
            self._file.write(line.encode("utf-8", "backslashreplace"))
            self._file.flush()
            os.fsync(self._file.fileno())

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            message = "another process is writing this file"
            raise OutputError(Problem(where=str(self.path), message=message, fix=_FIX)) from None

    def _read(self) -> None:
        """Take over the keys of the rows; a last line without its end is the trace of a kill and is cut off."""
        with explained(self.path):
            self._file.seek(0)
            end = 0
            for number, line in enumerate(self._file, 1):
                if not line.endswith(b"\n"):
                    self._require_beginning(number, line)
                    break
                row = self._row(number, line)
                self._keys.append(row["key"])
                self.failed += "error" in row
                end += len(line)
            os.ftruncate(self._file.fileno(), end)

    def _require_beginning(self, number: int, line: bytes) -> None:
        """Raise OutputError for a last line that is no beginning of a row: it is somebody else's and stays."""
        beginning = f'{{"index": {number - 1}, '.encode()
        if not (line.startswith(beginning) or beginning.startswith(line)):
            raise self._foreign(number, line)

    def _foreign(self, number: int, line: bytes) -> OutputError:
        message = f"is not a row of `qvl infer`: {printable(line[:80].decode('utf-8', 'replace'))}"
        return OutputError(Problem(where=f"{self.path}:{number}", message=message, fix=_FIX))

    def _row(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("key"), str) or row.get("index") != number - 1:
            raise self._foreign(number, line)
        return row


def in_order(rows: Iterable[tuple[int, T]], first: int) -> Iterator[T]:
    """Give numbered rows in their order, holding back those that came early."""
    early: dict[int, T] = {}
    for number, row in rows:
        early[number] = row
        while first in early:
            yield early.pop(first)
            first += 1
    assert not early, f"rows {sorted(early)} never had their turn"
