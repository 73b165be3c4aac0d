"""`qvl doctor --recipe R`: everything about one run on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from qvl_core.cli.doctor import ascend, disks, host, needs
from qvl_core.cli.doctor.guard import Check
from qvl_core.cli.doctor.row import Row
from qvl_core.errors import InputError, Problem

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe


# What is looked at with a recipe: skipped where it cannot be loaded.
LATER = (
    *("recipe-devices", "recipe-files", "recipe-weights", "recipe-memory", "device-memory", "output-folder"),
    *("shared-folders", "output-space", "time-lost", "determinism", "secrets", "recipe-data", "recipe-records"),
    *("file-times", "trackers", "recipe-digest", "weights-digest", "nodes-agree"),
)


# A row is for one look; what has more to say is told by `qvl check` and `qvl convert`.
_MOST = 600


def load(path: str) -> tuple[Recipe | None, list[Row]]:
    """Load the recipe; where it is wrong, give a row for each problem instead."""
    from qvl_core.recipe import load_recipe

    try:
        recipe = load_recipe(path)
    except InputError as error:
        return None, [problem_row("recipe", problem) for problem in error.problems]
    layout, launch = recipe.parallel, recipe.launch
    degrees = f"tp {layout.tp} x pp {layout.pp} x dp {layout.dp}"
    evidence = f"{recipe.task} of {recipe.spec.name}, {degrees} on {launch.device}"
    rows = [Row(check="recipe", level="ok", evidence=f"{path}: {evidence}")]
    return recipe, [*rows, *(problem_row("recipe", warning) for warning in recipe.warnings)]


def checks(recipe: Recipe, environment: Mapping[str, str], devices: Path, ask: ascend.Ask) -> list[Check]:
    """List what the recipe needs against what is here."""

    def device_memory() -> Row:
        capacity = needs.npu_capacity(ask().text) if recipe.launch.device == "ascend" else 0
        return needs.check_device_memory(recipe, capacity)

    cores = len(os.sched_getaffinity(0))
    return [
        Check(name="recipe-devices", look=lambda: needs.check_devices_for(recipe, devices, cores, environment)),
        Check(name="recipe-files", look=lambda: _inputs(recipe)),
        # Headers of all shards are read.
        Check(name="recipe-weights", look=lambda: _weights(recipe), deadline_s=60.0),
        Check(name="recipe-memory", look=lambda: needs.check_host_memory(recipe, host.available_memory())),
        Check(name="device-memory", look=device_memory, deadline_s=60.0),
        Check(name="output-folder", look=lambda: needs.check_output(recipe)),
        Check(name="shared-folders", look=lambda: disks.check_shared_folders(recipe)),
        Check(name="output-space", look=lambda: needs.check_space(recipe)),
        Check(name="time-lost", look=lambda: needs.check_loss_of_a_stop(recipe)),
        Check(name="determinism", look=lambda: _determinism(recipe, environment)),
        Check(name="secrets", look=lambda: needs.check_secrets(recipe)),
    ]


def problem_row(check: str, problem: Problem) -> Row:
    """Give a problem as a row of the report."""
    level = "fail" if problem.severity == "error" else "warn"
    key = f" {problem.key}" if problem.key else ""
    fix = "; ".join(problem.fix.splitlines()) or "correct it there"
    message = "; ".join(line.strip() for line in problem.message.splitlines())
    return Row(check=check, level=level, evidence=f"{problem.where}:{key} {message}"[:_MOST], fix=fix)  # type: ignore[arg-type]


def _weights(recipe: Recipe) -> list[Row]:
    from qvl_core.weights_fit import check_weights

    if not Path(recipe.weights.source).exists():
        evidence = "an earlier check failed: recipe-files" if recipe.weights.init != "random" else "made at random"
        return [Row(check="recipe-weights", level="skipped", evidence=evidence)]
    problems = check_weights(recipe)
    if problems:
        return [problem_row("recipe-weights", problem) for problem in problems]
    return [Row(check="recipe-weights", level="ok", evidence=f"{recipe.weights.source} fits the recipe")]


def _inputs(recipe: Recipe) -> list[Row]:
    from qvl_core.cli.inputs import missing_inputs

    missing = missing_inputs(recipe)
    if missing:
        return [problem_row("recipe-files", problem) for problem in missing]
    return [Row(check="recipe-files", level="ok", evidence="weights, data and media folders are there")]


def _determinism(recipe: Recipe, environment: Mapping[str, str]) -> Row:
    stated = recipe.env.HCCL_DETERMINISTIC or environment.get("HCCL_DETERMINISTIC", "")
    if recipe.launch.device == "cpu":
        return Row(check="determinism", level="ok", evidence="CPU runs are equal to the bit")
    if stated in ("true", "strict"):
        return Row(check="determinism", level="ok", evidence=f"HCCL_DETERMINISTIC is {stated}")
    evidence = 'reductions may differ in the last bits between runs; HCCL_DETERMINISTIC = "true" fixes their order'
    return Row(check="determinism", level="ok", evidence=evidence)
