"""What a rank says on the board is what the launcher reads, at once, and also after the rank is gone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from qvl_core.launch import board as board_module
from qvl_core.launch.board import STATE_BYTES, BoardReader, BoardWriter, NullBoard, board_file, writer_from_environment


@pytest.fixture
def board(tmp_path: Path):
    reader = BoardReader(tmp_path, [0, 3])
    yield reader, BoardWriter(board_file(tmp_path, 3))
    reader.close()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give the time, which passes only when a test says so."""
    current = [100.0]
    monkeypatch.setattr(board_module.time, "monotonic", lambda: current[0])
    return current


def test_a_rank_that_has_said_nothing_has_no_process(board) -> None:
    reader, _ = board
    for entry in reader.entries():
        assert (entry.process, entry.counter, entry.state, entry.stamps) == (0, 0, "", {})


def test_a_mark_is_read_with_its_time_and_its_process(board) -> None:
    reader, writer = board
    before = time.monotonic()
    writer.begin()
    writer.mark("step 12: sum over data", waiting=True)
    _, entry = reader.entries()
    assert (entry.rank, entry.process, entry.counter) == (3, os.getpid(), 2)
    assert (entry.state, entry.waiting, entry.done) == ("step 12: sum over data", True, False)
    assert before <= entry.marked_at <= time.monotonic()
    writer.finish()
    assert reader.entries()[1].done


def test_the_longest_time_of_a_kind_of_work_is_known_from_its_second_time_on(board, now) -> None:
    reader, writer = board
    writer.mark("step 1: forward")
    assert reader.entries()[1].longest_s is None
    now[0] += 8.0
    writer.mark("step 1: sum", waiting=True)
    assert reader.entries()[1].longest_s is None
    now[0] += 2.0
    writer.mark("step 2: forward")
    assert reader.entries()[1].longest_s == 8.0
    assert reader.entries()[1].waits == 1
    writer.mark("step 2: sum", waiting=True)
    assert reader.entries()[1].longest_s == 2.0


def test_the_first_piece_of_a_phase_says_nothing_of_the_next_one(board, now) -> None:
    reader, writer = board
    for step in (1, 2):
        writer.mark(f"step {step}")
        writer.mark(f"step {step}: exchanging values", waiting=True)
        writer.mark(f"step {step}")
        # Fetching data took a moment; the gradients may take minutes, and the first time nobody knows how many.
        assert (reader.entries()[1].longest_s is None) == (step == 1)
        now[0] += 300.0
    assert reader.entries()[1].longest_s == 300.0


def test_a_long_state_is_cut_and_not_written_over_what_follows(board) -> None:
    reader, writer = board
    writer.begin()
    writer.mark("é" * 500)
    entry = reader.entries()[1]
    assert entry.state.startswith("é" * (STATE_BYTES // 2))
    assert entry.process == os.getpid()


def test_a_stamp_counts_once_and_a_board_has_room_for_32(board) -> None:
    reader, writer = board
    writer.stamp("connected")
    first = reader.entries()[1].stamps["connected"]
    writer.stamp("connected")
    assert reader.entries()[1].stamps == {"connected": first}
    for number in range(100):
        writer.stamp(f"stamp {number}")
    assert len(reader.entries()[1].stamps) == 32


def test_what_a_rank_said_last_survives_its_death(board, tmp_path: Path) -> None:
    reader, _ = board
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom qvl_core.launch.board import BoardWriter\n"
        "writer = BoardWriter(Path(sys.argv[1]))\nwriter.begin()\nwriter.mark('last words')\n"
        "print(os.getpid(), flush=True)\nos._exit(9)\n"
    )
    command = [sys.executable, "-c", program, str(board_file(tmp_path, 0))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.returncode == 9
    entry = reader.entries()[0]
    assert (entry.process, entry.state) == (int(done.stdout), "last words")


def test_a_worker_finds_its_board_in_its_environment_and_a_single_process_has_none(tmp_path: Path) -> None:
    reader = BoardReader(tmp_path, [2])
    writer = writer_from_environment({"QVL_BOARD": str(tmp_path), "OMPI_COMM_WORLD_RANK": "2", "RANK_ID": "9"})
    writer.mark("here")
    assert reader.entries()[0].state == "here"
    for environment in ({}, {"QVL_BOARD": str(tmp_path)}, {"RANK_ID": "0"}):
        assert isinstance(writer_from_environment(environment), NullBoard)
