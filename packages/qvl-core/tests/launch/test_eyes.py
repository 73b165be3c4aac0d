"""What is seen of a rank: what it says, and what its process and all of its threads do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from qvl_core.launch.board import BoardReader, board_file
from qvl_core.launch.eyes import Eyes
from qvl_core.launch.proc import busy_state, status_of

# A rank whose main thread waits for another one, which computes or is asleep.
RANK = """
import sys, threading
from pathlib import Path
from qvl_core.launch.board import BoardWriter
def work():
    while sys.argv[2] == "computes":
        pass
    threading.Event().wait()
BoardWriter(Path(sys.argv[1])).begin()
thread = threading.Thread(target=work, daemon=True)
thread.start()
print("begun", flush=True)
thread.join()
"""
PATIENCE_S = 120.0


@pytest.fixture
def looking(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Eyes, int]]:
    """Give eyes and the process of the rank, whose main thread waits."""
    reader = BoardReader(tmp_path, [0])
    command = [sys.executable, "-c", RANK, str(board_file(tmp_path, 0)), request.param]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            deadline = time.monotonic() + PATIENCE_S
            while (status := status_of(process.pid)) is None or status.state != "S":
                assert time.monotonic() < deadline
            yield Eyes(reader), process.pid
        finally:
            process.kill()
    reader.close()


@pytest.mark.parametrize("looking", ["computes"], indirect=True)
def test_a_thread_that_has_work_counts_while_the_main_one_waits_for_it(looking: tuple[Eyes, int]) -> None:
    eyes, process = looking
    assert busy_state(process) == "R"
    (look,) = eyes.look()
    assert look.vitals is not None
    assert look.vitals.state == "R"


@pytest.mark.parametrize("looking", ["sleeps"], indirect=True)
def test_threads_that_all_sleep_have_none(looking: tuple[Eyes, int]) -> None:
    eyes, process = looking
    deadline = time.monotonic() + PATIENCE_S
    while busy_state(process):
        assert time.monotonic() < deadline
    (look,) = eyes.look()
    assert look.vitals is not None
    assert look.vitals.state == "S"


def test_a_process_that_is_gone_has_no_thread() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert busy_state(child.pid) == ""
    assert busy_state(os.getpid()) == "R"
