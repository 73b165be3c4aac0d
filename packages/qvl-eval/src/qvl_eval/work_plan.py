"""Which rows are left to be answered, and by whom: written by the process that starts a run, read by its replicas.

Rows are dealt out by a static stride over what is left, so that replicas need not talk to each other, and a resumed run
of any number of replicas shares its rest evenly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from qvl_core.durable import atomic_write, explained
from qvl_core.errors import OutputError, Problem, RunError
from qvl_core.input_file import printable

PLAN_NAME = "work.json"


@dataclass(frozen=True, kw_only=True)
class WorkPlan:
    """What is left of a run. `protocol` is its digest; `total` counts all rows; the rest are indexes of rows.

    `preflight` are the rows that are answered first, by the first replica; `left` all others, in the file's order.
    """

    protocol: str
    total: int
    preflight: tuple[str, ...]
    left: tuple[str, ...]

    def share(self, replica: int, replicas: int) -> tuple[str, ...]:
        """Give the rows of one of so many replicas, those of the pre-flight aside.

        The first replica has those to do: what is left is dealt out from the others on.
        """
        return self.left[(replica - 1) % replicas :: replicas]

    def write(self, folder: Path) -> None:
        """Write it into the run's folder."""
        atomic_write(folder / PLAN_NAME, json.dumps(asdict(self)) + "\n")


def make_plan(rows: Sequence[str], done: Mapping[str, object], protocol: str, *, preflight: int) -> WorkPlan:
    """Plan a run over these rows, of which some are done."""
    first = spread(rows, preflight)
    chosen = set(first)
    return WorkPlan(
        protocol=protocol,
        total=len(rows),
        preflight=tuple(index for index in first if index not in done),
        left=tuple(index for index in rows if index not in chosen and index not in done),
    )


def spread(rows: Sequence[str], count: int) -> tuple[str, ...]:
    """Give so many rows from the whole file, at even distances, the first among them."""
    count = min(count, len(rows))
    return tuple(rows[number * len(rows) // count] for number in range(count))


def read_plan(folder: Path, protocol: str) -> WorkPlan:
    """Read the plan in a run's folder. Raises OutputError if this process has other data, weights or settings."""
    path = folder / PLAN_NAME
    with explained(path):
        text = path.read_text(encoding="utf-8")
    try:
        value = json.loads(text)
        plan = WorkPlan(**{**value, "preflight": tuple(value["preflight"]), "left": tuple(value["left"])})
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f"{path}: is not the plan of a run: {printable(str(error))}") from None
    if plan.protocol != protocol:
        message = (
            "the data or the weights are not the same on all machines:\n"
            f"the run's protocol is {plan.protocol[:12]}, here it is {protocol[:12]}"
        )
        fix = "put the same files on all machines, best on a shared file system"
        raise OutputError(Problem(where=str(folder), key="eval.data", message=message, fix=fix))
    return plan
