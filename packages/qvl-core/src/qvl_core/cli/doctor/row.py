"""One row of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail", "skipped"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A check's result. `check` is a stable name, `evidence` what was found, `fix` the one thing to do about it.

    `warn` may hurt, `fail` stops something that is installed from working, `skipped` had nothing to look at.
    """

    check: str
    level: Level
    evidence: str
    fix: str = ""
