"""The numbers of a run, read as they are: a file that grows, has holes, or was written by another version.

What cannot be used is counted and told, never guessed at. Values are kept as columns, so that long runs stay small.
"""

from __future__ import annotations

import json
import math
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from qvl_core.errors import OutputError
from qvl_core.input_file import open_regular_file, printable

from qvl_train.report.series import holes
from qvl_train.reports import NOT_FINITE

METRICS = "metrics.jsonl"
# Lines with something wrong that are named; all are counted.
_NAMED = 3
_MOST_TOLD = 800
# No row of ours comes near: a longer line is of another file.
_MOST_LINE_BYTES = 1 << 20
# Of what was read last; rows have times in them, and no two end alike.
_TAIL_BYTES = 64
# Sums and quotients of numbers beyond these leave what a float can hold; no run has such.
_LARGEST, _SMALLEST = 1e100, 1e-100
# Times and rates have this end. Rounding leaves one that was none so little below 0, no clock of a step does more.
_SECONDS = "_s"
_LOWEST_S = -1e-3
_NOT_FINITE = "NaN or infinite"
_BELOW_0 = "below 0 and left out"


class MetricsFile:
    """Reads `metrics.jsonl`; `update` takes what has been appended since, or all anew where the file is another one.

    A row is a JSON object with a whole `step` of at least 0. Numbers of other keys are kept, one value for each step:
    of a step that occurs again the later value counts, as a run that is continued repeats steps.
    """

    # Why the file could not be read when the run was opened; empty where it could.
    problem: str
    # The highest of any row, whatever is in it, but of those in `not_finite`; None without one.
    last_step: int | None
    wrong_lines: int
    half_line: bool
    failed_saves: list[tuple[int, str]]
    # Of steps that ended the run because their loss or gradients were no numbers: they were not taken.
    not_finite: list[tuple[int, str]]
    _place: int
    _tail: bytes
    _line: int
    _identity: tuple[int, int] | None
    _steps: dict[str, array[int]]
    _values: dict[str, array[float]]
    # By key and what is wrong with the values: how many, and the step of the first.
    _odd: dict[tuple[str, str], tuple[int, int]]
    _named: list[tuple[int, str]]

    def __init__(self, path: Path) -> None:
        self._path = path
        self.problem = ""
        self._forget()

    def update(self) -> bool:
        """Read what is new, and say whether there was anything. A file that is not there has no rows.

        Raises OutputError where something other than a regular file is in its place.
        """
        had = self._place > 0
        if not self._path.exists():
            self._forget()
            return had
        with open_regular_file(self._path, error_type=OutputError) as file:
            found = os.fstat(file.fileno())
            identity = (found.st_dev, found.st_ino)
            # A run that goes on replaces the file by one without the rows that it repeats; numbers of files are used
            # again, and a file may be written over.
            is_anew = identity != self._identity or found.st_size < self._place or not self._ends_as_read(file)
            if is_anew:
                self._forget()
                self._identity = identity
            began = self._place
            file.seek(began)
            while line := file.readline(_MOST_LINE_BYTES):
                if not line.endswith(b"\n"):
                    if len(line) < _MOST_LINE_BYTES or not _skip_line(file):
                        break
                    line = b""
                self._place = file.tell()
                self._tail = line[-_TAIL_BYTES:]
                self._line += 1
                if line.strip():
                    self._take(line)
                elif not line:
                    self._refuse("longer than any row")
            self.half_line = found.st_size > self._place
        self.problem = ""
        # Of a file that was emptied all that was shown is gone, though nothing was read.
        return self._place != began or (is_anew and had)

    @property
    def keys(self) -> list[str]:
        """The keys that have a number, in the order in which they first came."""
        return list(self._values)

    def series(self, key: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Give (steps, values) of a key, steps ascending, each once, finite values only; empty for an unknown key."""
        steps, values = self.all_values(key)
        kept = np.isfinite(values)
        return steps[kept], values[kept]

    def all_values(self, key: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Give the same with the values that are NaN or infinite."""
        if key not in self._values:
            return np.empty(0, np.int64), np.empty(0)
        steps = np.frombuffer(self._steps[key], np.int64).copy()
        values = np.frombuffer(self._values[key], np.float64).copy()
        if len(steps) > 1 and (np.diff(steps) <= 0).any():
            # The last one of equal steps.
            _, last = np.unique(steps[::-1], return_index=True)
            chosen = len(steps) - 1 - last
            steps, values = steps[chosen], values[chosen]
        return steps, values

    def lost_steps(self, key: str, every: int = 0) -> list[tuple[int, int]]:
        """Give the (first, last) steps without a row of this key, seen by the usual distance of the rows around.

        `every` is how many steps a row stands for by now, where that is known.
        """
        steps, _ = self.all_values(key)
        found = zip(*holes(steps, every), strict=True)
        return [(int(steps[at] + before), int(steps[at + 1] - after)) for at, before, after in found]

    def notices(self) -> Iterator[str]:
        """Say what of the file could not be used, a sentence each."""
        if self.problem:
            yield f"{METRICS} cannot be used: {self.problem}."
        if self.wrong_lines:
            named = "; ".join(f"line {number}: {why}" for number, why in self._named)
            more = f"; and {self.wrong_lines - len(self._named):,} more" if self.wrong_lines > len(self._named) else ""
            lines = "1 line is" if self.wrong_lines == 1 else f"{self.wrong_lines:,} lines are"
            yield f"{METRICS}: {lines} left out ({named}{more})."
        for (key, what), (count, first) in self._odd.items():
            values = "1 value is" if count == 1 else f"{count:,} values are"
            yield f"{printable(key)}: {values} {what}, first at step {first:,}."
        for _, why in self.not_finite[-1:]:
            yield f"The run was ended: {printable(' '.join(why.split()), _MOST_TOLD)}"
        if self.half_line:
            yield f"{METRICS} ends in the middle of a row: it was being written, or the run was killed."

    def _ends_as_read(self, file: BinaryIO) -> bool:
        """Tell whether the file still has what was read last, where it was read."""
        file.seek(self._place - len(self._tail))
        return file.read(len(self._tail)) == self._tail

    def _forget(self) -> None:
        self._place = 0
        self._tail = b""
        self._line = 0
        self._identity = None
        self._steps = {}
        self._values = {}
        self._odd = {}
        self._named = []
        self.last_step = None
        self.wrong_lines = 0
        self.half_line = False
        self.failed_saves = []
        self.not_finite = []

    def _take(self, line: bytes) -> None:
        if not line.strip(b"\0\r\n"):
            self._refuse("only zero bytes, as a machine that went down leaves them")
            return
        try:
            row = json.loads(line)
        except UnicodeDecodeError:
            # Its text is of the encoding that was guessed at.
            self._refuse("not UTF-8")
            return
        except json.JSONDecodeError as error:
            self._refuse(f"{error.msg}, column {error.pos + 1}")
            return
        except (ValueError, RecursionError) as error:
            self._refuse(printable(str(error), 80))
            return
        step = row.get("step") if isinstance(row, dict) else None
        if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 2**62:
            self._refuse("not an object with a whole step")
            return
        if isinstance(found := row.get(NOT_FINITE), str):
            self.not_finite.append((step, found))
            return
        self.last_step = max(step, self.last_step or 0)
        for key, value in row.items():
            if key == "save_failed" and isinstance(value, str):
                self.failed_saves.append((step, value))
            elif key != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                self._keep(key, step, value)

    def _keep(self, key: str, step: int, value: float) -> None:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if abs(number) > _LARGEST:
            number = math.inf
        elif abs(number) < _SMALLEST:
            number = 0.0
        if not math.isfinite(number):
            self._count(key, _NOT_FINITE, step)
        elif number < _LOWEST_S and key.endswith(_SECONDS):
            self._count(key, _BELOW_0, step)
            number = math.nan
        if key not in self._values:
            self._steps[key], self._values[key] = array("q"), array("d")
        self._steps[key].append(step)
        self._values[key].append(number)

    def _count(self, key: str, what: str, step: int) -> None:
        count, first = self._odd.get((key, what), (0, step))
        self._odd[key, what] = (count + 1, first)

    def _refuse(self, why: str) -> None:
        self.wrong_lines += 1
        if len(self._named) < _NAMED:
            self._named.append((self._line, why))


def _skip_line(file: BinaryIO) -> bool:
    """Read to the end of the line, and say whether it has one."""
    while rest := file.readline(_MOST_LINE_BYTES):
        if rest.endswith(b"\n"):
            return True
    return False
