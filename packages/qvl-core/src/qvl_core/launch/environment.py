"""What the workers find in their environment: this shell's, without what an old job left behind, with the plan's."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qvl_core.launch_plan import Variable

# What launchers set for their own workers. Found in the shell that starts qvl, they are left over from another job
# and would tell our workers wrong ranks.
LEFT_OVER = (
    *("MS_ROLE", "MS_SCHED_HOST", "MS_SCHED_PORT", "MS_WORKER_NUM", "MS_NODE_ID", "MS_CLUSTER_SIZE"),
    *("RANK_TABLE_FILE", "RANK_ID", "RANK_SIZE", "DEVICE_ID", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
)
LEFT_OVER_PREFIXES = ("OMPI_COMM_WORLD_", "PMIX_", "PMI_", "PRTE_LAUNCHED", "PRTE_JOB")
# Settings of a person, not of a job.
KEPT_PREFIX = "PMIX_MCA_"


@dataclass(frozen=True, kw_only=True)
class ChildEnvironment:
    """The variables of the children, and what a person should be told about them."""

    variables: Mapping[str, str]
    notes: tuple[str, ...]


def child_environment(planned: Iterable[Variable], shell: Mapping[str, str]) -> ChildEnvironment:
    """Give the environment of mpiexec, msrun and the workers: the shell's and the plan's."""
    removed = [name for name in shell if is_left_over(name)]
    variables = {name: value for name, value in shell.items() if name not in removed}
    notes = list(export(planned, variables))
    if removed:
        shown = ", ".join(sorted(removed)[:6]) + (f" and {len(removed) - 6} more" if len(removed) > 6 else "")
        notes.append(f"{shown} in this shell are another job's; the workers do not get them")
    return ChildEnvironment(variables=variables, notes=tuple(notes))


def export(planned: Iterable[Variable], target: MutableMapping[str, str]) -> tuple[str, ...]:
    """Put the plan's variables into an environment; give what has to be said about it.

    The recipe's own replace what is there, and that is said; qvl's defaults give way to it.
    """
    notes = []
    for variable in planned:
        before = target.get(variable.name)
        if before is None:
            target[variable.name] = variable.value
        elif before != variable.value and variable.origin == "[env]":
            notes.append(
                f"{variable.name} is {before} in this shell and {variable.value} in the recipe; "
                "the recipe's value is used"
            )
            target[variable.name] = variable.value
    return tuple(notes)


def is_left_over(name: str) -> bool:
    """Tell whether a launcher sets a variable of this name for its own workers."""
    return name in LEFT_OVER or (name.startswith(LEFT_OVER_PREFIXES) and not name.startswith(KEPT_PREFIX))


def with_python_first(variables: Mapping[str, str], executable: str) -> str:
    """Give a PATH on which `python` is this one: msrun takes the first one that it finds."""
    return os.pathsep.join([str(Path(executable).parent), *filter(None, [variables.get("PATH", os.defpath)])])
