"""Every way in which a rank can fail: all processes end, and the true cause is on the screen.

No run would end by itself within what `end` waits for.
"""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import time
from pathlib import Path

import pytest

# Nothing takes as long, however busy the machine is.
PATIENCE_S = 120.0


@pytest.mark.parametrize(
    ("kind", "code", "text"),
    [
        ("input", 2, "weights/a.safetensors\n  has 0 bytes\n  fix: download it again\n"),
        ("run", 1, "qvl: the loss is NaN at step 2\n"),
        ("bug", 1, "qvl: ZeroDivisionError: division by zero\n  this is a bug in qvl"),
    ],
    ids=["wrong input", "failed run", "bug"],
)
@pytest.mark.parametrize("place", ["load", "forward"])
def test_a_rank_that_raises_ends_all_with_its_own_error_and_exit_code(start, kind, code, text, place) -> None:
    launch = start(f"{kind}:1:{place}", steps=100_000)
    launch.until("rank_001.log", f"fault {kind}")
    assert launch.end() == code
    assert launch.err.startswith(text)
    assert launch.err.endswith("rank 1 (stage 0, tp 0, dp 1) failed first; its log: run/logs/rank_001.log\n")
    assert "Traceback" not in launch.out + launch.err
    assert "Traceback" in (launch.folder / "run" / "logs" / "rank_001.log").read_text()


def test_the_traceback_of_rank_0_is_in_its_log_and_not_on_the_screen(start) -> None:
    launch = start("bug:0:forward")
    assert launch.end() == 1
    assert launch.out.splitlines() == ["step 1 done", "fault bug"]
    assert "Traceback" in (launch.folder / "run" / "logs" / "rank_000.log").read_text()


def test_a_rank_that_leaves_without_a_word_is_named_with_its_exit_code(start) -> None:
    launch = start("exit:1:forward", steps=100_000)
    assert launch.end() == 1
    assert "rank 1 (stage 0, tp 0, dp 1), process " in launch.err
    assert "ended with exit code 7 without saying why" in launch.err


def test_a_rank_that_dies_with_a_known_message_in_its_log_is_explained(start) -> None:
    launch = start("hccl:1:forward", steps=100_000)
    assert launch.end() == 1
    assert "rank 1 (stage 0, tp 0, dp 1), process " in launch.err
    assert "  known message: EJ0003: [PID: 159] Failed to bind the IP port." in launch.err
    assert "    fix: env.HCCL_IF_BASE_PORT = 61000" in launch.err


@pytest.mark.parametrize(
    ("kind", "place", "text", "limit_s"),
    [
        ("stop", "forward", r"has been stopped by a signal for (\d+) s", 8),
        ("loop", "forward", r"hangs: no sign of life for (\d+) s", 15),
        ("sleep", "load", r"hangs: no sign of life for (\d+) s", 15),
    ],
    ids=["stopped", "endless loop", "asleep"],
)
def test_a_rank_that_hangs_is_found_named_and_its_stack_shown(start, kind, place, text, limit_s) -> None:
    launch = start(f"{kind}:1:{place}", steps=100_000)
    launch.until("rank_001.log", f"fault {kind}")
    assert launch.end() == 1
    assert "rank 1 (stage 0, tp 0, dp 1), process " in launch.err
    found = re.search(text, launch.err)
    assert found is not None, launch.err
    assert int(found[1]) >= limit_s
    state = "step 2: forward" if place == "forward" else "loading weights"
    assert f"before: {state}\n" in launch.err
    assert "in fault" in launch.err, "the function that it stood in"


def test_ranks_that_wait_for_each_other_for_ever_are_found_and_all_named(start) -> None:
    launch = start("deadlock:1:sum", steps=100_000)
    launch.until("rank_001.log", "fault deadlock")
    assert launch.end() == 1
    found = re.search(r"all ranks wait for each other, and none has moved for (\d+) s", launch.err)
    assert found is not None, launch.err
    assert int(found[1]) >= 15
    for rank in (0, 1):
        assert f"rank {rank} (stage 0, tp 0, dp {rank}): step 2: sum over data\n" in launch.err
        assert "Current thread" in (launch.folder / "run" / "logs" / f"rank_{rank:03d}.log").read_text()


def has_broken_down(launch) -> bool:
    """Tell whether prterun (Open MPI 5.0.11) broke down, as it may where a rank dies while others connect."""
    output = (launch.folder / "run" / "logs" / "launcher.log").read_text()
    return "prterun: " in output and "Assertion" in output


def require_told(launch, rank: int, process: int) -> None:
    """Require that the launch has ended and names the rank that was killed, or says that prterun broke down."""
    assert launch.end() == 1
    # A process that dies between the first line of its log and its first word on the board is known by its rank only.
    named = rf"rank {rank} \(stage 0, tp 0, dp {rank}\)(, process {process},)? was killed by signal 9 \(SIGKILL\)"
    found = re.search(named, launch.err)
    if found is None and has_broken_down(launch):
        # Before it could say who was the first: that nobody knows is told, and all that are gone may be named.
        assert re.search(r"mpiexec .*was killed by signal 6 \(SIGABRT\)|was itself killed by signal 6", launch.err)
        return
    assert found is not None, launch.err
    assert found[1] is not None or "before it could begin" in launch.err


@pytest.mark.parametrize("attempt", range(24))
def test_a_rank_killed_at_any_moment_ends_all(start, attempt: int) -> None:
    chance = random.Random(attempt)
    rank, delay_s = chance.randrange(2), chance.random() * 0.6
    launch = start(steps=100_000)
    # A process of the rank is there from its log's first line on, long before it has met the others.
    launch.until(f"rank_{rank:03d}.log", "--- ")
    time.sleep(delay_s)
    launch.note()
    process = launch.workers()[rank]
    os.kill(process, signal.SIGKILL)
    require_told(launch, rank, process)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("place", ["load", "forward", "sum", "save"])
def test_a_rank_killed_at_each_kind_of_work_ends_all(start, place: str, rank: int) -> None:
    # However fast the machine is, there is a kill in every phase.
    launch = start(f"kill:{rank}:{place}", steps=3 if place == "save" else 100_000)
    launch.until(f"rank_{rank:03d}.log", "fault kill")
    require_told(launch, rank, launch.workers()[rank])


def test_the_workers_end_when_the_launcher_is_killed(start) -> None:
    launch = start(steps=100_000)
    launch.until("rank_000.log", "step 2 done")
    launch.note()
    assert len(launch.left()) >= 3
    variables = Path(f"/proc/{launch.workers()[0]}/environ").read_bytes().split(b"\0")
    board = Path(next(one for one in variables if one.startswith(b"QVL_BOARD=")).decode()[len("QVL_BOARD=") :])
    assert board.exists()
    launch.process.send_signal(signal.SIGKILL)
    launch.process.communicate()
    deadline = time.monotonic() + PATIENCE_S
    while launch.left() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert launch.left() == []
    # If the workers had no time to remove it, the next launch does.
    assert start().end() == 0
    assert not board.exists()


def test_a_killed_mpiexec_is_named_and_takes_the_workers_with_it(start) -> None:
    launch = start(steps=100_000)
    launch.until("rank_000.log", "step 2 done")
    launch.note()
    starter = next(one for one in launch.left() if one.process == one.session)
    os.kill(starter.process, signal.SIGKILL)
    assert launch.end() == 1
    assert "mpiexec was killed by signal 9 (SIGKILL)" in launch.err


def test_a_port_in_use_is_found_before_anything_starts(start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        launch = start("none", "--set", f"launch.master=localhost:{port}")
        assert launch.end() == 2
    assert f"port {port} is in use on this machine, by process {os.getpid()} (" in launch.err
    assert "fix: --set launch.master=localhost:" in launch.err
    assert not (launch.folder / "run").exists()


@pytest.mark.parametrize("moment", ["at once", "while the other waits for it"])
def test_a_rank_that_dies_before_it_can_say_anything_is_named(start, tmp_path: Path, moment: str) -> None:
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import os, sys, time\n"
        "if os.environ.get('OMPI_COMM_WORLD_RANK') == '1':\n"
        "    board = os.environ['QVL_BOARD'] + '/rank_000.board'\n"
        f"    while {moment != 'at once'} and b'connecting' not in open(board, 'rb').read():\n"
        "        time.sleep(0.01)\n"
        "    os.write(2, b'cannot find a library\\n')\n"
        "    os._exit(5)\n"
    )
    launch = start()
    assert launch.end() == 1
    told = ["rank 1 (stage 0, tp 0, dp 1) ended with exit code 5 without saying why, before it could begin"]
    if has_broken_down(launch):
        # Before it could say who was the first: rank 1 is named as one that had not begun, or nobody had begun.
        told += ["had not begun: rank 1 (stage 0, tp 0, dp 1); mpiexec does not say"]
        told += ["mpiexec was killed by signal 6 (SIGABRT)"] if moment == "at once" else []
    assert any(text in launch.err for text in told), launch.err
    assert "| cannot find a library" in launch.err


def test_a_missing_mpi4py_ends_with_3_and_the_pip_command(start, tmp_path: Path) -> None:
    # An interpreter that finds everything but mpi4py.
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'mpi4py' else found(name, *rest)\n"
    )
    launch = start()
    assert launch.end() == 3
    assert "mpi4py is not installed\n  fix: pip install 'qvl-train[mpi]'" in launch.err
    assert not (launch.folder / "run").exists()
