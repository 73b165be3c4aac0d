"""A starter that ends without saying which rank failed, as mpiexec does when one dies while the ranks are meeting."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from qvl_core.errors import QvlError
from qvl_core.launch.failures import RankError
from qvl_core.launch.supervisor import Start, supervise
from qvl_core.launch.watch import Limits
from qvl_core.launch_plan import RankPlace
from qvl_core.parallel.mesh import Coordinate

RANK_0 = """\
import os
from pathlib import Path
from qvl_core.errors import RunError
from qvl_core.launch.board import writer_from_environment
from qvl_core.launch.failures import write_failure
board = writer_from_environment()
board.begin()
board.mark("connecting", waiting={waiting})
error = {error}
if error is not None:
    write_failure(Path(os.environ["QVL_BOARD"]), 0, error)
"""
STARTER = """\
import os, subprocess, sys
rank_0 = {rank_0!r}
subprocess.run([sys.executable, "-c", rank_0], env={{**os.environ, "OMPI_COMM_WORLD_RANK": "0"}}, check=True)
print("cannot find a library")
sys.exit(5)
"""
ABSENT = "rank 1 (stage 0, tp 0, dp 1)"


def ended(folder: Path, *, waiting: bool, error: str = "None", ranks: int = 2) -> QvlError:
    """Start ranks of which only the first begins, and give what the run ends with."""
    places = [
        RankPlace(
            rank=rank, node=0, device=0, place=Coordinate(pp=0, dp=rank, tp=0), vision_layers=(0, 1), text_layers=(0, 1)
        )
        for rank in range(ranks)
    ]
    start = Start(
        command=(sys.executable, "-c", STARTER.format(rank_0=RANK_0.format(waiting=waiting, error=error))),
        environment=dict(os.environ),
        places=tuple(places),
        logs=folder / "logs",
        shown_logs=folder / "logs",
        limits=Limits(),
    )
    with pytest.raises(QvlError) as caught:
        supervise(start, None)
    return caught.value


@pytest.mark.parametrize("error", ["None", "KeyboardInterrupt()"], ids=["without a word", "told to end"])
def test_the_rank_that_the_other_was_waiting_for_is_named(tmp_path: Path, error: str) -> None:
    text = str(ended(tmp_path, waiting=True, error=error))
    assert text.startswith(f"{ABSENT} ended with exit code 5 without saying why, before it could begin\n")
    assert "    | cannot find a library" in text


@pytest.mark.parametrize("error", ["None", "KeyboardInterrupt()"], ids=["without a word", "told to end"])
def test_where_it_may_have_been_any_of_several_all_are_named(tmp_path: Path, error: str) -> None:
    text = str(ended(tmp_path, waiting=True, error=error, ranks=3))
    assert "rank 0 (stage 0, tp 0, dp 0)" in text
    assert f"or the cause is one that had not begun: {ABSENT}, rank 2 (stage 0, tp 0, dp 2); python" in text
    assert " names none, its exit code: 5\n" in text
    assert "    | cannot find a library" in text


def test_a_rank_that_was_at_work_of_its_own_may_be_the_cause_as_well(tmp_path: Path) -> None:
    text = str(ended(tmp_path, waiting=False))
    assert text.startswith("rank 0 (stage 0, tp 0, dp 0), process ")
    assert f"or the cause is one that had not begun: {ABSENT}; python" in text


def test_a_rank_that_told_its_error_is_the_cause_whoever_had_not_begun(tmp_path: Path) -> None:
    error = ended(tmp_path, waiting=True, error="RunError('the loss is NaN')")
    assert isinstance(error, RankError)
    assert str(error).startswith("qvl: the loss is NaN\n")
    assert "had not begun" not in str(error)
