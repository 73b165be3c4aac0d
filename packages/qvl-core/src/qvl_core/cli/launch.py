"""Start what the launch plan says: the task in this process, or, from it, one process for each rank.

The only module of the command line that touches the environment of a run.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qvl_core.launch import node_place
from qvl_core.launch.environment import export
from qvl_core.launch.terminal_loss import TerminalLoss
from qvl_core.launch_plan import launch_plan
from qvl_core.run_folder import LOGS
from qvl_core.tasks import RunOptions, StartWorkers, find_worker, load_task

if TYPE_CHECKING:
    from qvl_core.launch.node_place import NodePlace
    from qvl_core.launch_plan import LaunchPlan, Variable
    from qvl_core.recipe import Recipe

# What workers that answer questions are called in the group of entry points.
ANSWERING_TASK = "infer"


def start(recipe: Recipe, plan: LaunchPlan, place: NodePlace, options: RunOptions) -> int:
    """Run the recipe and give its exit code.

    With several processes the task still runs here: it checks everything first, calls `options.start_workers` when
    it is ready, and finishes when the workers are done. Raises NotInstalledError where the task, or what several
    processes need, is not installed.
    """
    if plan.method == "in process":
        task = load_task(recipe.task)
        variables = plan.environment
    else:
        find_worker(recipe.task)
        task = load_task(recipe.task)
        options = replace(options, node_rank=place.node, start_workers=_starter(recipe, plan, place, LOGS))
        variables = _beside_workers(plan)
    _say(export(variables, os.environ))
    # The command line starts without it, see `qvl_core.cli.app`.
    gc.enable()
    with TerminalLoss():
        return task(recipe, options)


def export_here(plan: LaunchPlan) -> None:
    """Put the plan's variables into this process, before anything reads them, and say what they replace."""
    _say(export(plan.environment, os.environ))


def prepare_answering(recipe: Recipe, overrides: Sequence[str], command: str) -> StartWorkers | None:
    """Make this process ready to answer with the recipe's weights, whatever its task is.

    Gives what starts the workers that hold the model, None where this process does. They are named "infer" among the
    workers and log to `logs/COMMAND` of the output folder; of several machines to `logs`, where `qvl run` on the others
    looks. Raises RecipeError, NotInstalledError.
    """
    plan = launch_plan(recipe, overrides)
    gc.enable()
    if plan.method == "in process":
        export_here(plan)
        return None
    find_worker(ANSWERING_TASK)
    place = this_machine(recipe, None)
    plan = launch_plan(recipe, overrides, ("--task", ANSWERING_TASK), master=place.master)
    _say(export(_beside_workers(plan), os.environ))
    return _starter(recipe, plan, place, f"{LOGS}/{command}" if place.nodes == 1 else LOGS)


def _beside_workers(plan: LaunchPlan) -> tuple[Variable, ...]:
    """Give what the process that starts workers needs: its own part reads data and text, the rest is for them."""
    return tuple(one for one in plan.environment if one.origin in ("qvl: offline", "qvl: data.workers"))


def this_machine(recipe: Recipe, node_rank: int | None) -> NodePlace:
    """Give which of the recipe's machines this one is. Raises RecipeError where nothing says it."""
    launch = recipe.launch
    place = node_place.find_place(nodes=launch.nodes, master=launch.master, node_rank=node_rank, environment=os.environ)
    _say(place.notes)
    return place


def _starter(recipe: Recipe, plan: LaunchPlan, place: NodePlace, logs: str) -> StartWorkers:
    """Check that the workers can be started, and give the function that does it. `logs` is within the output folder."""
    from qvl_core.launch.environment import child_environment, with_python_first
    from qvl_core.launch.ports import require_free_port
    from qvl_core.launch.processes import real_command
    from qvl_core.launch.supervisor import Start, supervise
    from qvl_core.launch.watch import limits_for
    from qvl_core.weights_fit import where_of

    def check_port() -> None:
        if place.node == 0:
            require_free_port(place.master, where_of(recipe, "launch.master"))

    check_port()
    command = real_command(plan.nodes[place.node].command, os.environ.get("PATH", os.defpath))
    shown_logs = Path(recipe.output.dir) / logs

    def start_workers(
        *, variables: Mapping[str, str] | None = None, stop: threading.Event | None = None, shown: bool = True
    ) -> str | None:
        # Again: the task has checked its input in between, which may have taken long.
        check_port()
        child = child_environment(plan.environment, os.environ)
        _say(child.notes)
        return supervise(
            Start(
                command=command,
                environment={
                    **child.variables,
                    **(variables or {}),
                    "PATH": with_python_first(child.variables, sys.executable),
                },
                places=tuple(rank for rank in plan.ranks if rank.node == place.node),
                logs=shown_logs.absolute(),
                shown_logs=shown_logs,
                limits=limits_for(recipe.launch.device, place.nodes),
                node=place.node,
                nodes=place.nodes,
            ),
            sys.stdout if shown else None,
            stop,
        )

    return start_workers


def _say(notes: tuple[str, ...]) -> None:
    for note in notes:
        print(f"qvl: warning: {note}", file=sys.stderr)
