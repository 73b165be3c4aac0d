"""Launchers of two machines, here on one, with a stand-in for msrun: what fails on one stops the other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PATIENCE_S = 300.0
# Starts this machine's ranks as msrun does, and waits for them (--join=True).
STARTER = """
import os, subprocess, sys
node = int(sys.argv[1])
numbers = [str(2 * node + i) for i in (0, 1)]
ranks = [subprocess.Popen([sys.executable, "rank.py"], env={**os.environ, "RANK_ID": one}) for one in numbers]
sys.exit(max(rank.wait() != 0 for rank in ranks))
"""
RANK = """
import os, time
from qvl_core.errors import OutputError, Problem
from qvl_core.launch import worker

def work(words):
    rank = worker.rank_from(os.environ)
    board = worker.writer_from_environment()
    print("rank", rank)
    for step in range(100_000):
        board.mark(f"step {step}", waiting=True)
        time.sleep(0.05)
        if step == 20 and rank == int(os.environ["FAILS"]):
            raise OutputError(Problem(where="run", message="is full"))
        if step == 10 and os.environ["FAILS"] == "none":
            return

worker._run = work
worker._parsed = lambda arguments: None
worker.main()
"""
LAUNCHER = """
import os, sys
from pathlib import Path
from qvl_core.launch.supervisor import Start, supervise
from qvl_core.launch.watch import limits_for
from qvl_core.launch_plan import RankPlace
from qvl_core.parallel.mesh import Coordinate
from qvl_core.cli.boundary import guarded

node = int(sys.argv[1])
places = [RankPlace(rank=2 * node + i, node=node, device=i, place=Coordinate(pp=0, dp=2 * node + i, tp=0),
    vision_layers=(0, 1), text_layers=(0, 1)) for i in (0, 1)]
start = Start(command=(sys.executable, "starter.py", str(node)), environment=os.environ, places=tuple(places),
    logs=Path("logs").absolute(), shown_logs=Path("logs"), limits=limits_for("ascend", 2), node=node, nodes=2)
sys.exit(guarded(lambda: supervise(start, sys.stdout) or 0))
"""


@pytest.fixture
def machines(tmp_path: Path):
    for name, text in (("starter.py", STARTER), ("rank.py", RANK), ("launcher.py", LAUNCHER)):
        (tmp_path / name).write_text(text)
    started: list[subprocess.Popen[str]] = []

    def start(fails: str) -> list[subprocess.Popen[str]]:
        for node in ("0", "1"):
            command = [sys.executable, "launcher.py", node]
            environment = {**os.environ, "FAILS": fails}
            pipe = subprocess.PIPE
            started.append(
                subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, text=True)
            )
        return started

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.communicate()


def test_ranks_of_msrun_are_watched_like_those_of_mpiexec(machines, tmp_path: Path) -> None:
    processes = machines("none")
    outputs = [process.communicate(timeout=PATIENCE_S) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    # Only rank 0 speaks, and it is on machine 0.
    assert [out for out, _ in outputs] == ["rank 0\n", ""]
    names = {path.name for path in (tmp_path / "logs").iterdir()}
    assert {"launch.json", "launch_node_001.json", "rank_000.log", "rank_003.log"} <= names


def test_a_failure_on_one_machine_stops_the_other_with_its_text_and_exit_code(machines) -> None:
    processes = machines("3")
    # Left alone, the ranks of the other machine would work for more than an hour.
    outputs = [process.communicate(timeout=PATIENCE_S) for process in processes]
    assert [process.returncode for process in processes] == [2, 2], outputs
    (_, first), (_, second) = outputs
    assert second == "run\n  is full\nrank 3 (stage 0, tp 0, dp 3) failed first; its log: logs/rank_003.log\n"
    assert first == f"{second}that was on machine 1; this one has stopped with it\n"
