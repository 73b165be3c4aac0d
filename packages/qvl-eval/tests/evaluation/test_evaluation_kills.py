"""Runs that are killed, lose a replica or fill the disk go on with any number of replicas, to the same files."""

from __future__ import annotations

import errno
import itertools
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evaluation_process import fork, kill_all, run
from qvl_core import disk
from qvl_eval.evaluation.prediction_log import AnswerCount, part_files, read_answers

ROWS = 150
KILLS = 30
Start = Callable[..., int]
# What says when and where a run went; all else has to be the same.
_OWN = {"run.json", "times.jsonl", ".lock", "logs"}


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in _OWN
    }


@pytest.fixture
def start(
    write_recipe: Callable[..., Path],
    save_benchmark: Callable[..., None],
    picture: str,
    tmp_path: Path,
) -> Start:
    """Give the function that forks an evaluation of `ROWS` rows into a folder, with so many replicas."""
    cells = [("first", picture, "Which?", "1", "a")]
    save_benchmark(cells + [(f"r{n}", "first", f"Which {n}?", "7", f"part {n % 3}") for n in range(1, ROWS)])
    path = write_recipe()

    def start(folder: str, replicas: int, **how: Any) -> int:
        settings = (f"output.dir={tmp_path / folder}", "eval.batch=4")
        return fork(lambda: run(path, settings, replicas, **how))

    return start


def answered(folder: Path) -> set[str]:
    """Give the rows that are answered; a kill while files are gathered leaves some in two of them."""
    return {prediction.index for _, prediction, _ in read_answers(folder)}


def is_running(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("replicas", [2, 3, 7])
def test_any_number_of_replicas_ends_with_the_same_files(start: Start, tmp_path: Path, replicas: int) -> None:
    assert wait(start("one", 1)) == 0
    assert wait(start("many", replicas)) == 0
    assert files_of(tmp_path / "many") == files_of(tmp_path / "one")
    assert files_of(tmp_path / "one")["predictions.jsonl"].count(b"\n") == ROWS


def test_thirty_kills_at_random_moments_cost_nothing_that_was_done(start: Start, tmp_path: Path) -> None:
    began = time.monotonic()
    assert wait(start("whole", 1)) == 0
    whole_s = time.monotonic() - began
    generator = random.Random(8)
    counts = itertools.cycle([1, 2, 3])
    kills = run_number = kept = 0
    while kills < KILLS:
        folder = tmp_path / f"killed_{run_number}"
        done = answered(folder)
        # Half of them by the clock; half, however fast the machine is, by the first replica when it has so many rows:
        # with batches of four it has answered some by then.
        rows = generator.randint(9, 40) if kills % 2 else None
        child = start(folder.name, next(counts), rows=rows)
        moment = time.monotonic() + generator.uniform(0, 0.6 * whole_s)
        while is_running(child) and (rows is not None or time.monotonic() < moment):
            time.sleep(0.001)
        code = kill_all(child)
        assert code in (0, -signal.SIGKILL)
        kills += code != 0
        kept += code != 0 and 0 < len(answered(folder)) < ROWS
        if folder.is_dir():
            assert answered(folder) >= done, "answers are gone"
        if (folder / "scores.json").exists():
            run_number += 1
    assert kept >= KILLS // 2, "kills with something done and something left"
    for number in range(run_number + 1):
        assert wait(start(f"killed_{number}", next(counts))) == 0
        assert files_of(tmp_path / f"killed_{number}") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("rest", [1, 2, 3])
def test_a_replica_that_dies_leaves_its_rows_and_the_run_goes_on(start: Start, tmp_path: Path, rest: int) -> None:
    assert wait(start("whole", 1)) == 0
    assert wait(start("died", 2, dies=lambda number: number == 1)) == 1
    names = [path.name for path in part_files(tmp_path / "died")]
    assert names == ["predictions.jsonl", "predictions.001.jsonl"]
    done = AnswerCount(tmp_path / "died").update()
    assert ROWS // 2 < done < ROWS
    assert not (tmp_path / "died" / "scores.json").exists()
    assert wait(start("died", rest)) == 0
    assert files_of(tmp_path / "died") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_disk_that_fills_up_is_told_and_what_was_done_stays(
    start: Start, tmp_path: Path, replicas: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert wait(start("whole", 1)) == 0
    left = iter(range(20))
    write = disk.write

    def write_some(descriptor: int, data: bytes | memoryview) -> int:
        if next(left, None) is None:
            # Half of a row, and no more.
            if len(data) > 100:
                return write(descriptor, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr(disk, "write", write_some)
    assert wait(start("full", replicas)) == 1
    assert "No space left on device" in capfd.readouterr().err
    monkeypatch.undo()
    assert 0 < AnswerCount(tmp_path / "full").update() < ROWS
    assert all(path.read_bytes().endswith(b"\n") for path in part_files(tmp_path / "full"))
    assert wait(start("full", 3 - replicas)) == 0
    assert files_of(tmp_path / "full") == files_of(tmp_path / "whole")
