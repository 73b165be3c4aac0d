"""One check under guard: whatever it meets, the doctor goes on and gives a row for it."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from qvl_core.cli.doctor.row import Row

# What only looks at files, names and numbers of this machine. A dead network drive or name service never answers.
LOOK_S = 15.0

# The row that tells of a Python without modules of its own.
PYTHON = "python"
# How that row names them.
LACKS = "it lacks"
_LACKING = re.compile(rf"; {LACKS} (\w+(?:, \w+)*):")

Look = Callable[[], "Row | Sequence[Row]"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check by the name of its (first) row; `look` gives its row or rows, within `deadline_s`.

    `needed` tells that nothing can be said without it: then it fails where it cannot be made.
    """

    name: str
    look: Look
    deadline_s: float = LOOK_S
    needed: bool = False


def guarded(check: Check, python: Sequence[Row] = ()) -> list[Row]:
    """Run a check in a thread; give its rows, or one that says that it failed or did not answer. Raises nothing.

    `python` is the row of Python, where there is one by now: a check that breaks by what it names is skipped.
    """
    answer = _Answer()

    def work() -> None:
        try:
            found = check.look()
            answer.rows = [found] if isinstance(found, Row) else list(found)
        except BaseException as error:
            answer.error = error

    # A thread that hangs in a system call cannot be ended; as a daemon it does not keep the doctor from ending.
    thread = threading.Thread(target=work, daemon=True, name=f"doctor {check.name}")
    thread.start()
    thread.join(check.deadline_s)
    if answer.rows is not None:
        return answer.rows
    if answer.error is not None:
        return [_broken(check, answer.error, python)]
    evidence = f"no answer within {check.deadline_s:.0f} s"
    fix = "look for a network drive or name service that does not answer: df, and getent hosts NAME"
    return [Row(check=check.name, level="fail", evidence=evidence, fix=fix)]


def _broken(check: Check, error: BaseException, python: Sequence[Row]) -> Row:
    module = _module(error)
    for row in python:
        # What nothing can be said without is never passed over for a mere warning.
        if _names(row, module) and (row.level == "fail" or not check.needed):
            how = "failed" if row.level == "fail" else "warned"
            return Row(check=check.name, level="skipped", evidence=f"an earlier check {how}: {PYTHON}")
    evidence = f"could not be looked at: {type(error).__name__}: {error}"[:300]
    fix = "mend what the message names; where it names nothing of yours, report it with `qvl doctor --json`"
    if module in sys.stdlib_module_names:
        fix = f"{module} is Python's own: rename a {module}.py of yours, in this folder or PYTHONPATH, that hides it"
        fix += "; else install all of Python, for example: conda create -n qvl python=3.11"
    elif isinstance(error, ImportError):
        fix = "pip install --force-reinstall qvl-core, which brings what it needs"
    return Row(check=check.name, level="fail" if check.needed else "warn", evidence=evidence, fix=fix)


def _module(error: BaseException) -> str:
    """Give the module, of the topmost level, that an import has missed; "" for errors of other kinds."""
    return (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""


def _names(row: Row, module: str) -> bool:
    """Tell whether the row of Python names a module as lacking: `ssl` stands for its inner half `_ssl`, too."""
    found = _LACKING.search(row.evidence) if row.level != "ok" else None
    return found is not None and module.removeprefix("_") in found[1].split(", ")


@dataclass
class _Answer:
    rows: list[Row] | None = None
    error: BaseException | None = field(default=None)
