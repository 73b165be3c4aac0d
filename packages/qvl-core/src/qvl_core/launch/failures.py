"""What a worker died of, in its own words: a file on the board that the launcher reads.

On the board and not in the output folder, as that may be full or gone: it is often what the worker died of.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from qvl_core.error_text import explain
from qvl_core.errors import QvlError


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A worker's own error. `text` is what a terminal would show; `log_bytes` the length of its log before the trace.

    `moment` is CLOCK_MONOTONIC.
    """

    rank: int
    exit_code: int
    text: str
    moment: float
    log_bytes: int


class RankError(QvlError):
    """The error of a worker, passed on by the launcher as the worker has put it."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def write_failure(folder: Path, rank: int, error: BaseException, *, log_bytes: int = 0) -> Failure:
    """Write down what the rank dies of, whole or not at all."""
    text, code = explain(error)
    failure = Failure(rank=rank, exit_code=code, text=text, moment=time.monotonic(), log_bytes=log_bytes)
    path = folder / f"rank_{rank:03d}.error.json"
    temporary = path.with_suffix(".tmp")
    # Not synced: it has to outlive the process, not the machine.
    temporary.write_text(json.dumps(asdict(failure)), encoding="utf-8")
    temporary.replace(path)
    return failure


def read_failures(folder: Path) -> tuple[Failure, ...]:
    """Give the failures that are there, the first one first."""
    found = [Failure(**json.loads(path.read_text(encoding="utf-8"))) for path in folder.glob("rank_*.error.json")]
    return tuple(sorted(found, key=lambda failure: failure.moment))
