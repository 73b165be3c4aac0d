"""Start what the launch plan says. The only module of the command line that writes the environment of a run."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

from qvl_core.errors import NotInstalledError
from qvl_core.tasks import RunOptions, load_task

if TYPE_CHECKING:
    from qvl_core.launch_plan import LaunchPlan
    from qvl_core.recipe import Recipe


def start(recipe: Recipe, plan: LaunchPlan, options: RunOptions) -> int:
    """Run the recipe and give its exit code. Raises NotInstalledError for a plan of several processes."""
    if plan.method != "in process":
        raise NotInstalledError(
            f"this recipe needs {plan.world_size} processes; this version of qvl starts one process only\n"
            "  several processes come with a later version; `qvl run --dry-run` shows what would be started\n"
            "  fix: use a recipe for one device; `qvl recipes` shows how many each needs"
        )
    task = load_task(recipe.task)
    export(plan)
    # The command line starts without it, see `qvl_core.cli.app`.
    gc.enable()
    return task(recipe, options)


def export(plan: LaunchPlan) -> None:
    """Put the plan's variables into this process, before anything reads them.

    The recipe's own replace what the shell has set, and that is said; qvl's defaults give way to the shell.
    """
    for variable in plan.environment:
        before = os.environ.get(variable.name)
        if before is None:
            os.environ[variable.name] = variable.value
        elif before != variable.value and variable.origin == "[env]":
            print(
                f"qvl: warning: {variable.name} is {before} in this shell and {variable.value} in the recipe; "
                "the recipe's value is used",
                file=sys.stderr,
            )
            os.environ[variable.name] = variable.value
