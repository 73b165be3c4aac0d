"""Saves beside the steps of a run: what is saved is of its step, and a full disk does what the recipe says."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mindspore", reason="training needs MindSpore")

from qvl_core import disk
from qvl_core.errors import DiskError, RunError
from qvl_train import append_file, loop, run_saves
from qvl_train.checkpoint import list_steps, open_checkpoint
from qvl_train.metrics import MetricsLog
from qvl_train.report.run_history import open_runs
from qvl_train.step import NotFiniteError
from whole_runs import before_step, losses, rows, train

Finished = Callable[..., None]
PATIENCE_S = 300


def steps_of(folder: str = "run") -> list[int]:
    """List the checkpoints that open and verify, oldest first; there must be no others, and nothing half done."""
    found = list_steps(Path(folder))
    for _, path in found:
        open_checkpoint(path)
    assert not [path.name for path in Path(folder).iterdir() if ".tmp-" in path.name or ".trash-" in path.name]
    return sorted(step for step, _ in found)


def weights_of(step: int, folder: str = "run") -> bytes:
    path = Path(folder) / f"step_{step:06d}"
    return b"".join((path / f"{kind}-pp000-tt000.safetensors").read_bytes() for kind in ("rank", "optimizer"))


@pytest.fixture
def full_from(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give a function that fills the disk for checkpoints while one of these steps is saved."""

    def fill(*steps: int, code: int = errno.ENOSPC) -> None:
        create = disk.create

        def failing(path: Path, mode: int) -> int:
            if any(f"step_{step:06d}.tmp-" in path.parent.name for step in steps) and path.name.startswith("optimizer"):
                raise OSError(code, os.strerror(code))
            return create(path, mode)

        monkeypatch.setattr(disk, "create", failing)

    return fill


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let no background save make a file until the event is set."""
    may_write, create = threading.Event(), disk.create

    def waiting(path: Path, mode: int) -> int:
        if threading.current_thread().name == "checkpoint":
            assert may_write.wait(PATIENCE_S)
        return create(path, mode)

    monkeypatch.setattr(disk, "create", waiting)
    return may_write


def test_a_checkpoint_written_during_later_steps_holds_the_numbers_of_its_own_step(
    project: Path, monkeypatch: pytest.MonkeyPatch, slow_disk: threading.Event
) -> None:
    slow_disk.set()
    train("train.save.background=false", "output.dir=inline")
    slow_disk.clear()
    before_step(monkeypatch, lambda step: slow_disk.set() if step == 5 else None)
    train("train.save.every=3")
    assert losses() == losses("inline")
    train("train.save.background=false", "train.save.every=3", "output.dir=again")
    assert weights_of(3) == weights_of(3, "again")
    assert weights_of(6) == weights_of(6, "inline")
    assert weights_of(3) != weights_of(6)


def test_a_save_that_is_due_waits_for_the_one_before_and_says_how_long(
    project: Path, monkeypatch: pytest.MonkeyPatch, slow_disk: threading.Event
) -> None:
    finish = run_saves.RunSaves._finish

    def waits(self: run_saves.RunSaves) -> Any:
        # Step 4's save is the first to wait: step 2's has not written anything.
        threading.Timer(0.05, slow_disk.set).start()
        return finish(self)

    monkeypatch.setattr(run_saves.RunSaves, "_finish", waits)
    train("train.save.every=2")
    saves = [row for row in rows() if "save_s" in row]
    assert [row["step"] for row in saves] == [2, 4, 6]
    assert all(row["save_copy_s"] >= 0 and row["save_wait_s"] >= 0 for row in saves)
    assert saves[1]["save_wait_s"] > 0.04
    assert steps_of() == [2, 4, 6]


@pytest.mark.parametrize("background", ["true", "false"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_stops_the_run_with_what_was_there_before_and_it_goes_on_from_that(
    project: Path, monkeypatch: pytest.MonkeyPatch, full_from: Any, background: str, code: int, finished: Finished
) -> None:
    finished(into="straight")
    with monkeypatch.context() as patch:
        patch.setattr(disk, "create", disk.create)
        full_from(4, code=code)
        with pytest.raises(DiskError) as error:
            train(f"train.save.background={background}")
        patch.undo()
    monkeypatch.undo()
    monkeypatch.chdir(project)
    assert error.value.exit_code == 1
    text = str(error.value)
    assert text.startswith("the checkpoint of step 4 could not be saved: ")
    assert f"cannot be written: {os.strerror(code)}" in text
    assert " GiB are free there" in text
    assert "bytes; what was written of it is removed" in text
    assert steps_of() == [2]
    assert train() == 0
    assert losses() == losses("straight")


@pytest.mark.parametrize("background", ["true", "false"])
def test_a_run_told_to_go_on_warns_keeps_the_numbers_and_saves_again(
    project: Path, full_from: Any, capsys: pytest.CaptureFixture[str], background: str
) -> None:
    full_from(2)
    assert train("train.save.on_error=continue", f"train.save.background={background}") == 0
    assert "warning: the checkpoint of step 2 could not be saved" in capsys.readouterr().out
    failed = [row for row in rows() if "save_failed" in row]
    assert [row["step"] for row in failed] == [2]
    assert "No space left on device" in failed[0]["save_failed"]
    assert [step for step, *_ in losses()] == [1, 2, 3, 4, 5, 6]
    assert steps_of() == [4, 6]


@pytest.mark.parametrize("policy", ["stop", "continue"])
def test_the_last_save_has_to_work_whatever_the_recipe_says(project: Path, full_from: Any, policy: str) -> None:
    full_from(6)
    with pytest.raises(DiskError, match="the checkpoint of step 6 could not be saved"):
        train(f"train.save.on_error={policy}")
    assert steps_of() == [2, 4]
    assert not (project / "run" / "hf").exists()


def test_a_file_size_limit_of_the_system_is_a_full_disk_too(project: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(DiskError, match="File too large"):
            train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert steps_of() == []
    assert train() == 0


def full_for_rows(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Fill the disk for metrics during these steps."""
    append = append_file.AppendFile.append
    now = [0]
    before_step(monkeypatch, lambda step: now.__setitem__(0, step))

    def failing(self: append_file.AppendFile, record: bytes) -> None:
        if now[0] in steps:
            raise DiskError("metrics.jsonl: cannot be written: No space left on device")
        append(self, record)

    monkeypatch.setattr(append_file.AppendFile, "append", failing)


def test_metrics_on_a_full_disk_stop_the_run_at_the_next_step(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_for_rows(monkeypatch, {3, 4, 5, 6})
    with pytest.raises(DiskError, match=r"metrics\.jsonl: cannot be written: No space left") as error:
        train()
    assert "fix: make room" in str(error.value)
    assert [step for step, *_ in losses()] == [1, 2]
    # What was being saved at that time is complete.
    assert steps_of() == [2]


def test_metrics_of_the_last_step_on_a_full_disk_fail_the_run_too(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_for_rows(monkeypatch, {6})
    with pytest.raises(DiskError, match="No space left"):
        train()
    assert steps_of() == [2, 4, 6]


def test_a_run_told_to_go_on_without_metrics_says_how_many_are_missing(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full_for_rows(monkeypatch, {3, 4})
    assert train("train.save.on_error=continue", "train.save.every=6") == 0
    assert capsys.readouterr().out.count("numbers are lost until there is room again") == 1
    assert [step for step, *_ in losses()] == [1, 2, 5, 6]
    assert [row["metrics_rows_lost"] for row in rows() if "metrics_rows_lost" in row] == [2]


def test_a_nan_during_a_save_does_not_cost_that_checkpoint(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(step: int) -> None:
        if step == 3:
            monkeypatch.setattr(loop.TrainStep, "_require_finite", fail)

    def fail(self: Any, loss: float, norm: float, reports: Any, *_: object) -> None:
        raise NotFiniteError(f"the loss of step 3 is {np.nan}", [report.message for report in reports])

    before_step(monkeypatch, spoil)
    with pytest.raises(RunError, match="the loss of step 3 is nan"):
        train()
    assert steps_of() == [2]
    # What ended the run is told by its numbers, and by its page.
    assert [(row["step"], row["not_finite"]) for row in rows() if "not_finite" in row] == [
        (3, "the loss of step 3 is nan")
    ]
    (run,) = open_runs([Path("run")])
    assert (run.last_step, run.loss_trouble) == (2, "the loss of step 3 is nan")


def test_a_small_checkpoint_is_complete_before_the_next_step_is_told_so_that_no_more_than_every_steps_are_lost(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, told = MetricsLog.write, []

    def write(self: MetricsLog, row: Any) -> None:
        if "loss" in row:
            newest = max((step for step, _ in list_steps(Path("run"))), default=0)
            told.append((row["step"], newest))
        plain(self, row)

    monkeypatch.setattr(MetricsLog, "write", write)
    slow = disk.sync
    # However busy the machine is.
    monkeypatch.setattr(run_saves, "SETTLE_S", PATIENCE_S)
    # As long as all that a step computes.
    monkeypatch.setattr(disk, "sync", lambda file: (time.sleep(0.1), slow(file)))
    assert train("train.save.every=2") == 0
    assert told == [(1, 0), (2, 0), (3, 2), (4, 2), (5, 4), (6, 4)]


def test_a_checkpoint_that_takes_longer_does_not_hold_up_the_steps(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_saves, "SETTLE_S", 0.01)
    reached, slow = threading.Event(), disk.sync

    def sync(file: Any) -> None:
        # The first save of all goes on when another step is done, and not before.
        assert threading.current_thread() is threading.main_thread() or reached.wait(PATIENCE_S)
        slow(file)

    monkeypatch.setattr(disk, "sync", sync)
    before_step(monkeypatch, lambda step: reached.set() if step == 4 else None)
    assert train("train.save.every=2") == 0
    assert steps_of() == [2, 4, 6]


def test_an_old_checkpoint_that_cannot_be_removed_is_no_reason_to_stop(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = disk.remove_empty_folder

    def busy(path: Path) -> None:
        if ".trash-" in str(path):
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        real(path)

    monkeypatch.setattr(disk, "remove_empty_folder", busy)
    assert train("train.save.every=2", "train.save.keep=1") == 0
    assert "warning: an older checkpoint stays: " in capsys.readouterr().out
    assert list_steps(Path("run"))[0][0] == 6
    assert Path("run/hf").is_dir()
