"""Trainings that verify a recipe on a device: short runs of `qvl run`, in processes of their own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qvl_core.conformance.device_result import LEAST_STEPS, golden_overrides, read_golden
from qvl_core.errors import Problem, RecipeError
from qvl_core.recipe import load_recipe

# Gives the exit code of a command.
Run = Callable[[Sequence[str]], int]


def train(recipe: Path, folder: Path, *, device: str, run: Run | None = None) -> Mapping[str, Any]:
    """Run a training recipe for some steps and return its entry of the result file; no losses where the run failed.

    The golden recipe runs as when its losses were recorded, but on this device and in bfloat16; every other one for
    20 steps on the devices that it states. Raises RecipeError for a recipe that is none, or trains nothing.
    """
    loaded = load_recipe(str(recipe))
    if loaded.train is None:
        raise RecipeError(
            Problem(
                where=str(recipe), key="task", message=f'"{loaded.task}" trains nothing', fix='name an "sft" recipe'
            )
        )
    overrides = _overrides(recipe.stem, folder, device)
    shutil.rmtree(folder, ignore_errors=True)
    settings = [word for key, value in overrides.items() for word in ("--set", f"{key}={value}")]
    code = (run or _run)([sys.executable, "-m", "qvl_core.cli", "run", str(recipe), *settings])
    losses = read_losses(folder / "metrics.jsonl") if code == 0 else []
    used = overrides.get("launch.device", loaded.launch.device)
    return {
        "recipe": recipe.stem, "digest": loaded.digest(), "device": used,
        "overrides": overrides, "exit_code": code, "losses": losses,
    }  # fmt: skip


def _overrides(name: str, folder: Path, device: str) -> dict[str, Any]:
    if name != read_golden()["recipe"]:
        return {"train.steps": LEAST_STEPS, "output.dir": str(folder)}
    return {**golden_overrides(device), "output.dir": str(folder)}


def read_losses(path: Path) -> list[float]:
    """Return the loss of each step in a run's `metrics.jsonl`; none where there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    rows = [json.loads(line) for line in lines]
    return [float(row["loss"]) for row in rows if "loss" in row]


def _run(command: Sequence[str]) -> int:
    return subprocess.run(command, check=False).returncode
