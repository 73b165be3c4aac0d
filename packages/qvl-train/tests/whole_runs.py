"""Whole runs in this process, of the recipe in the working directory (see `project` in conftest.py)."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qvl_core.layout import Layout
from qvl_core.recipe import load_recipe
from qvl_core.tasks import RunOptions
from qvl_core.weights.sharded_folder import open_sharded_folder
from qvl_core.weights.tensor_io import read_tensor
from qvl_train import loop, task
from qvl_train.metrics import read_metrics
from sharded_folders import write_sharded

CUT = Layout(tp=2, pp=2, vision_stages=(2, 0), text_stages=(1, 1))


def train(*settings: str, resume: str = "auto", reshard: bool = False, accept: bool = False) -> int:
    """Run and give the exit code."""
    options = RunOptions(resume=resume, reshard=reshard, accept_changes=accept)
    return task.run(load_recipe("recipe.toml", settings), options)


def rows(folder: str = "run") -> list[dict[str, Any]]:
    """Give all rows of metrics."""
    return read_metrics(Path(folder) / "metrics.jsonl")


def losses(folder: str = "run") -> list[tuple[int, str, str]]:
    """Give step, loss and gradient norm of every step, floats as exact hexadecimal text."""
    found = [row for row in rows(folder) if "loss" in row]
    return [(row["step"], row["loss"].hex(), row["gradient_norm"].hex()) for row in found]


def before_step(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """Call `act` with the number of every step that begins."""
    take = loop.TrainStep.__call__

    def call(self: loop.TrainStep, batches: Any, *, lr: float, step: int) -> object:
        act(step)
        return take(self, batches, lr=lr, step=step)

    monkeypatch.setattr(loop.TrainStep, "__call__", call)


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Raise a signal in the middle of a step, which ends it all the same, as a scheduler or Ctrl-C would."""
    before_step(monkeypatch, lambda begun: signal.raise_signal(number) if begun == step else None)


def train_until(monkeypatch: pytest.MonkeyPatch, step: int, *settings: str, resume: str = "auto") -> None:
    """Train until the process dies where a step would begin: nothing is saved any more. Later runs live."""

    def die(begun: int) -> None:
        if begun == step:
            raise MemoryError

    with monkeypatch.context() as patch:
        before_step(patch, die)
        with pytest.raises(MemoryError):
            train(*settings, resume=resume)


def cut_checkpoint(checkpoint: Path, target: Path) -> None:
    """Write a checkpoint of one process once more, cut for four."""
    folder = open_sharded_folder(checkpoint)
    target.mkdir()
    for path in checkpoint.iterdir():
        if not path.name.startswith(("rank-", "optimizer-", "manifest")):
            shutil.copy(path, target)
    arrays = {name: read_tensor(entry) for name, entry in folder.ranks[0, 0].items()}
    state = {name: read_tensor(entry) for name, entry in folder.optimizer[0, 0].items()}
    write_sharded(target, folder.manifest.spec, CUT, arrays, state)
