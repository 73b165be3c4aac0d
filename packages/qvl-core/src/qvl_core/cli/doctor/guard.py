"""One check under guard: whatever it meets, the doctor goes on and gives a row for it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from qvl_core.cli.doctor.row import Row

# What only looks at files, names and numbers of this machine. A dead network drive or name service never answers.
LOOK_S = 15.0

# The row that tells of a Python without modules of its own.
PYTHON = "python"

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


def guarded(check: Check) -> list[Row]:
    """Run a check in a thread; give its rows, or one that says that it failed or did not answer. Raises nothing."""
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
    if isinstance(answer.error, ImportError) and _is_python_own(answer.error.name):
        # The row of Python names it, and says what to do.
        return [Row(check=check.name, level="skipped", evidence=f"an earlier check failed: {PYTHON}")]
    if answer.error is not None:
        evidence = f"could not be looked at: {type(answer.error).__name__}: {answer.error}"[:300]
        fix = "mend what the message names; where it names nothing of yours, report it with `qvl doctor --json`"
        if isinstance(answer.error, ImportError):
            fix = "pip install --force-reinstall qvl-core, which brings what it needs"
        return [Row(check=check.name, level="fail" if check.needed else "warn", evidence=evidence, fix=fix)]
    evidence = f"no answer within {check.deadline_s:.0f} s"
    fix = "look for a network drive or name service that does not answer: df, and getent hosts NAME"
    return [Row(check=check.name, level="fail", evidence=evidence, fix=fix)]


def _is_python_own(module: str | None) -> bool:
    return (module or "").partition(".")[0] in sys.stdlib_module_names


@dataclass
class _Answer:
    rows: list[Row] | None = None
    error: BaseException | None = field(default=None)
