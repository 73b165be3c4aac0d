"""The tasks of a recipe and the packages that run them, found through entry points.

Group `qvl.tasks`: the function that a person's process runs. Group `qvl.workers`: what each of several processes does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, cast

from qvl_core.errors import NotInstalledError

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe

TASK_GROUP = "qvl.tasks"
WORKER_GROUP = "qvl.workers"
TASK_PACKAGES = {"sft": "qvl-train", "eval": "qvl-eval", "infer": "qvl-eval"}


StartWorkers = Callable[..., "str | None"]
"""Starts a recipe's workers and watches them until they are done, as `RunOptions` says.

By keyword: `variables` are added to their environment; `stop`, a threading.Event, ends them as soon as it is set; with
`shown=False` what rank 0 prints goes to its log only.
"""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What the command line of `qvl run` says besides the recipe.

    `resume` is "auto", "never" or the path of a checkpoint; with `accept_changes` a run is continued although recipe,
    data or starting weights are not what they were. `node_rank` is None where the recipe has one node.
    `start_workers` is there where the recipe needs several processes, in the process that starts them: it starts
    them, and gives None when all have done their work, or the name of the signal that made them stop early. It
    raises the error of the rank that failed first. In the workers themselves it is None.
    """

    dry_run: bool = False
    resume: str = "auto"
    reshard: bool = False
    accept_changes: bool = False
    node_rank: int | None = None
    debug: bool = False
    start_workers: StartWorkers | None = None


Task = Callable[["Recipe", RunOptions], int]
Worker = Callable[["Recipe", RunOptions], None]


def find_task(name: str) -> metadata.EntryPoint:
    """Give the entry point of the function that runs a task; nothing is imported.

    Raises NotInstalledError with the pip command.
    """
    found = tuple(metadata.entry_points(group=TASK_GROUP, name=name))
    if found:
        return found[0]
    package = TASK_PACKAGES.get(name)
    if package is None:
        raise NotInstalledError(f"no installed package runs the task {name!r}")
    raise NotInstalledError(
        f'task = "{name}" is run by the package {package}, which is not installed\n'
        f"  fix: pip install '{package}[mindspore]'"
    )


def find_worker(name: str) -> metadata.EntryPoint:
    """Give the entry point of what each of several processes does for a task; nothing is imported.

    Raises NotInstalledError where the task runs in one process only.
    """
    found = tuple(metadata.entry_points(group=WORKER_GROUP, name=name))
    if found:
        return found[0]
    find_task(name)
    raise NotInstalledError(
        f'task = "{name}" runs in one process in this version\n'
        "  fix: use a layout of one process: --set layout.tp=1 --set layout.pp=1 --set layout.dp=1"
    )


def load_task(name: str) -> Task:
    """Import the function that runs a task: (recipe, options) -> exit code.

    Raises NotInstalledError where the package, or something that it needs, is missing.
    """
    return cast(Task, _load(name, find_task(name)))


def load_worker(name: str) -> Worker:
    """Import what each of several processes does for a task: (recipe, options) -> None. Raises as `load_task` does."""
    return cast(Worker, _load(name, find_worker(name)))


def _load(name: str, entry: metadata.EntryPoint) -> object:
    package = entry.dist.name if entry.dist else TASK_PACKAGES.get(name, "")
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        missing = error.name or "a module"
        if missing.split(".")[0] == package.replace("-", "_"):
            raise NotInstalledError(
                f"the installed version of {package} does not have the task {name!r} yet (no module {missing})\n"
                f"  fix: pip install --upgrade {package}"
            ) from error
        raise NotInstalledError(
            f"the task {name!r} needs {missing}, which is not installed\n  fix: pip install --upgrade {package}"
        ) from error
