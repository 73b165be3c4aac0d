"""The two measured processes as their starter sees them, and what their answers make."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.case import Case

HERE = Path(__file__).parent
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class FailedError(Exception):
    """A measured process ended, or what it computed is wrong; the text is the message."""


class Side:
    """A process that does one thing at a time when asked. To be used in a `with` statement."""

    def __init__(self, program: str, folder: Path, core: int, case: Case, home: Path = HERE) -> None:
        self.name = program.removesuffix("_program.py")
        self._log = folder / f"{self.name}.log"
        order = {"folder": str(folder), "core": core, "frozen": case.frozen, "labels": case.labels}
        self._process = subprocess.Popen(
            [sys.executable, str(home / program), json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log.open("w", encoding="utf-8"),
            text=True,
            env={**os.environ, **ONE_THREAD},
        )
        self.start = self._answer()

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def ask(self, action: str) -> dict[str, Any]:
        """Have something done: its value, wall_s, cpu_s and peak_gib."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{action}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            tail = self._log.read_text(encoding="utf-8")[-3000:]
            raise FailedError(f"{self.name} ended with {self._process.wait()}:\n{tail}")
        return json.loads(line)


def summary(answers: Sequence[dict[str, Any]], tokens: int) -> dict[str, Any]:
    """Give medians and spread of one kind of work, and the largest peak."""
    wall = [answer["wall_s"] for answer in answers]
    return {
        "wall_s": round(statistics.median(wall), 3),
        "wall_s_least_most": [round(min(wall), 3), round(max(wall), 3)],
        "cpu_s": round(statistics.median(answer["cpu_s"] for answer in answers), 3),
        "tokens_per_s": round(tokens / statistics.median(wall), 1),
        "peak_gib": max(answer["peak_gib"] for answer in answers),
    }


def ratios(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Give ours / theirs of the same round: median, least and most."""
    found = {}
    for key in ("wall_s", "cpu_s"):
        values = [a[key] / b[key] for a, b in zip(ours, theirs, strict=True)]
        found[key.removesuffix("_s")] = [round(x, 3) for x in (statistics.median(values), min(values), max(values))]
    return found
