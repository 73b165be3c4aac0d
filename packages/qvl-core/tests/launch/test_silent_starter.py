"""A starter that ends without saying which rank failed, as mpiexec does when one dies while the ranks are meeting."""

from __future__ import annotations

import os
import re
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
#!{python}
import os, signal, subprocess, sys, time
rank_0 = {rank_0!r}
{before}
subprocess.run([sys.executable, "-c", rank_0], env={{**os.environ, "OMPI_COMM_WORLD_RANK": "0"}}, check=True)
print("cannot find a library", flush=True)
{end}
"""
ABSENT = "rank 1 (stage 0, tp 0, dp 1)"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the starter all the time that it needs to end."""
    monkeypatch.setattr("qvl_core.launch.supervisor._REPORT_S", 300.0)


def ended(
    folder: Path,
    *,
    waiting: bool = True,
    error: str = "None",
    ranks: int = 2,
    starter: str = "mpiexec",
    before: str = "",
    end: str = "sys.exit(5)",
    nodes: int = 1,
) -> QvlError:
    """Start ranks of which only the first begins, and give what the run ends with."""
    places = [
        RankPlace(
            rank=rank, node=0, device=0, place=Coordinate(pp=0, dp=rank, tp=0), vision_layers=(0, 1), text_layers=(0, 1)
        )
        for rank in range(ranks)
    ]
    program = folder / starter
    rank_0 = RANK_0.format(waiting=waiting, error=error)
    program.write_text(STARTER.format(python=sys.executable, rank_0=rank_0, before=before, end=end))
    program.chmod(0o755)
    start = Start(
        command=(str(program),),
        environment={**os.environ, "LOGS": str(folder / "logs")},
        places=tuple(places),
        logs=folder / "logs",
        shown_logs=folder / "logs",
        limits=Limits(),
        nodes=nodes,
    )
    with pytest.raises(QvlError) as caught:
        supervise(start, None)
    return caught.value


@pytest.mark.parametrize("error", ["None", "KeyboardInterrupt()"], ids=["without a word", "told to end"])
def test_the_rank_that_the_other_was_waiting_for_is_named(tmp_path: Path, error: str) -> None:
    text = str(ended(tmp_path, error=error))
    assert text.startswith(f"{ABSENT} ended with exit code 5 without saying why, before it could begin\n")
    assert text.count("    | cannot find a library") == 1
    # One that was told to end did not fail of itself; one that is gone while it was connecting may have.
    doubt = (
        "or the cause is one that left no word either: rank 0 (stage 0, tp 0, dp 0), connecting; mpiexec does not say"
    )
    assert (doubt in text) == (error == "None")


@pytest.mark.parametrize("error", ["None", "KeyboardInterrupt()"], ids=["without a word", "told to end"])
def test_where_it_may_have_been_any_of_several_all_are_named(tmp_path: Path, error: str) -> None:
    text = str(ended(tmp_path, error=error, ranks=3))
    assert "rank 0 (stage 0, tp 0, dp 0)" in text
    assert (
        f"or the cause is one that had not begun: {ABSENT}; rank 2 (stage 0, tp 0, dp 2); mpiexec does not say" in text
    )
    assert " does not say which it was, its exit code: 5\n" in text
    assert "    | cannot find a library" in text


@pytest.mark.parametrize("code", [5, 137, 139])
def test_a_rank_that_was_at_work_of_its_own_may_be_the_cause_as_well(tmp_path: Path, code: int) -> None:
    text = str(ended(tmp_path, waiting=False, end=f"sys.exit({code})"))
    assert re.match(r"rank 0 \(stage 0, tp 0, dp 0\), process \d+, ended without saying why\n", text)
    assert f"or the cause is one that had not begun: {ABSENT}; mpiexec does not say which it was" in text


def test_a_rank_that_told_its_error_is_the_cause_whoever_had_not_begun(tmp_path: Path) -> None:
    error = ended(tmp_path, error="RunError('the loss is NaN')")
    assert isinstance(error, RankError)
    assert str(error).startswith("qvl: the loss is NaN\n")
    assert "had not begun" not in str(error)


def test_the_exit_code_of_msrun_is_no_ranks(tmp_path: Path) -> None:
    text = str(ended(tmp_path, starter="msrun", end="sys.exit(1)"))
    assert f"one that had not begun: {ABSENT}; msrun does not say which was the first, its exit code: 1\n" in text
    assert "ended with exit code 1" not in text


def test_what_msrun_says_of_the_process_that_failed_is_told_while_msrun_waits_for_its_scheduler(tmp_path: Path) -> None:
    said = "print('Worker process 1 exit with exception. Error code: -11.', flush=True); time.sleep(1000)"
    text = str(ended(tmp_path, starter="msrun", end=said))
    assert text.startswith(f"{ABSENT} was killed by signal 11 (SIGSEGV), before it could begin\n")


def test_a_starter_that_breaks_down_after_it_has_said_which_rank_failed_is_believed(tmp_path: Path) -> None:
    said = "print('   Process name: [prterun-vm-16744@1,1]\\n   Exit code:    5', flush=True)"
    text = str(ended(tmp_path, end=f"{said}; os.kill(os.getpid(), signal.SIGABRT)"))
    assert text.startswith(f"{ABSENT} ended with exit code 5 without saying why, before it could begin\n")
    assert "does not say" not in text


def test_a_starter_that_was_killed_is_told_as_that(tmp_path: Path) -> None:
    text = str(ended(tmp_path, end="os.kill(os.getpid(), signal.SIGKILL)"))
    assert f"{ABSENT}; mpiexec does not say which it was, and was itself killed by signal 9 (SIGKILL)\n" in text


def test_a_starter_that_was_killed_after_all_had_begun_is_told_as_that(tmp_path: Path) -> None:
    text = str(ended(tmp_path, ranks=1, end="os.kill(os.getpid(), signal.SIGABRT)"))
    assert text.startswith("rank 0 (stage 0, tp 0, dp 0), process ")
    assert "\n  mpiexec itself was killed by signal 6 (SIGABRT), and does not say which rank was the first\n" in text


def test_a_starter_that_neither_speaks_nor_ends_leaves_the_doubt(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("qvl_core.launch.supervisor._REPORT_S", 0.5)
    text = str(ended(tmp_path, end="time.sleep(1000)"))
    assert f"{ABSENT}; mpiexec does not say which it was, and has not ended\n" in text


@pytest.fixture
def another(monkeypatch: pytest.MonkeyPatch) -> str:
    """Give what the launcher of another machine does: it tells, and is heard only when something has happened here."""
    monkeypatch.setattr("qvl_core.launch.supervisor._OTHERS_PERIOD_S", float("inf"))
    return (
        "import json, pathlib\n"
        "told = {'text': 'rank 7: connection to rank 0 lost', 'exit_code': 1, 'start': 'a'}\n"
        "pathlib.Path(os.environ['LOGS'], 'stopped_node_001.json').write_text(json.dumps(told))"
    )


def test_of_several_machines_what_another_has_told_counts(tmp_path: Path, another: str) -> None:
    text = str(ended(tmp_path, nodes=2, before=another))
    assert text == "rank 7: connection to rank 0 lost\nthat was on machine 1; this one has stopped with it"


def test_the_death_of_a_rank_at_work_is_told_beside_what_another_machine_said(tmp_path: Path, another: str) -> None:
    text = str(ended(tmp_path, waiting=False, ranks=1, nodes=2, before=another, end="os._exit(0)"))
    assert text.startswith("rank 0 (stage 0, tp 0, dp 0), process ")
    assert "\n  and before that: rank 7: connection to rank 0 lost\nthat was on machine 1" in text


def test_of_several_machines_one_that_has_not_begun_here_is_not_singled_out(tmp_path: Path) -> None:
    text = str(ended(tmp_path, nodes=2))
    assert text.startswith("rank 0 (stage 0, tp 0, dp 0), process ")
    assert f"had not begun: {ABSENT}; mpiexec does not say which it was, its exit code: 5\n" in text
