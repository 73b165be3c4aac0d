"""The tasks of a recipe and the packages that run them, found through the entry point group `qvl.tasks`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, cast

from qvl_core.errors import NotInstalledError

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe

TASK_GROUP = "qvl.tasks"
TASK_PACKAGES = {"sft": "qvl-train", "eval": "qvl-eval", "infer": "qvl-eval"}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What the command line of `qvl run` says besides the recipe.

    `resume` is "auto", "never" or the path of a checkpoint; `node_rank` is None where the recipe has one node.
    """

    dry_run: bool = False
    resume: str = "auto"
    reshard: bool = False
    node_rank: int | None = None
    debug: bool = False


Task = Callable[["Recipe", RunOptions], int]


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


def load_task(name: str) -> Task:
    """Import the function that runs a task: (recipe, options) -> exit code.

    Raises NotInstalledError where the package, or something that it needs, is missing.
    """
    entry = find_task(name)
    package = entry.dist.name if entry.dist else TASK_PACKAGES.get(name, "")
    try:
        return cast(Task, entry.load())
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
