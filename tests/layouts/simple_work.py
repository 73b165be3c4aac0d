"""Work without MindSpore, to test how launches end: a sum over the ranks, or one of the ends of `sabotage`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cases import Case
from sabotage import end


def prepare() -> None:
    """Do nothing."""


def run_case(case: Case, comm: Any, folder: Path, board: Any) -> int:
    """Give the sum of all ranks' numbers."""
    if case.broken and comm.Get_rank() == case.world_size - 1:
        end(case.broken)
    return comm.allreduce(comm.Get_rank())
