"""Which rank failed first, when several have: peers of a dead rank fail too, or are ended by mpiexec. Pure."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qvl_core.error_text import EXIT_INTERRUPTED
from qvl_core.launch.failures import Failure
from qvl_core.launch.watch import Look

# Open MPI, versions 4 and 5; the line may be broken anywhere.
_BY_SIGNAL = re.compile(r"process rank (\d+) with PID \d+ on node \S+ exited on\s+signal (\d+)")
_BY_CODE = re.compile(r"Process name: \[\S+?,(\d+)\]\s+Exit code:\s+(\d+)")
# msrun, which knows processes and not ranks.
_BY_PROCESS = re.compile(r"Worker process (\d+) exit with exception\. Error code: (-?\d+)")

# What shells and mpiexec add to the number of the signal that a process ended with.
_SIGNAL_CODES = 128


@dataclass(frozen=True, kw_only=True)
class StarterReport:
    """What mpiexec or msrun says of a rank that failed: the signal or exit code that it ended with.

    `is_first`: of all it is known to have been the first. msrun looks once a second, and names the lowest of those that
    are gone by then; what is read from an exit code is a guess as long as others are gone without a word.
    """

    rank: int
    signal_number: int = 0
    exit_code: int = 0
    is_first: bool = True


def starter_report(text: str, looks: Sequence[Look] = ()) -> StarterReport | None:
    """Find in the output of mpiexec or msrun which rank failed first; None where it does not say.

    A process that msrun names and no rank has is the only rank that has not begun, if there is only one, and those that
    have begun are there or were waiting: under a wrapper every process is unknown.
    """
    text = " ".join(text.split())
    if match := _BY_SIGNAL.search(text):
        return StarterReport(rank=int(match[1]), signal_number=int(match[2]))
    if match := _BY_CODE.search(text):
        return StarterReport(rank=int(match[1]), exit_code=int(match[2]))
    if match := _BY_PROCESS.search(text):
        process, code = int(match[1]), int(match[2])
        named = [look for look in looks if look.process == process]
        if not named and all(look.waiting or look.vitals is not None for look in looks if look.process):
            named = [look for look in looks if not look.process]
        if len(named) == 1:
            ended = {"signal_number": max(-code, 0), "exit_code": max(code, 0)}
            return StarterReport(rank=named[0].rank, **ended, is_first=False)
    return None


def by_exit_code(
    code: int, looks: Sequence[Look], failures: Sequence[Failure], silent: Sequence[Look]
) -> StarterReport | None:
    """Read from mpiexec's exit code what it has not written: how the first rank ended, a signal as 128 and its number.

    That is so when a rank dies while the ranks are meeting. Which one it was is known of the only one that has not
    begun, if nobody that is gone did anything but wait for it; or, where all have begun, of the only one that is gone.
    None otherwise.
    """
    absent = [look for look in looks if not look.process]
    told = [failure for failure in failures if failure.exit_code == EXIT_INTERRUPTED]
    waited = bool(silent or told) and len(told) == len(failures) and all(look.waiting for look in silent)
    suspects = absent or silent
    if len(suspects) != 1 or code <= 0 or (absent and not waited):
        return None
    is_first = not (absent and silent)
    if code - _SIGNAL_CODES in set(signal.Signals):
        return StarterReport(rank=suspects[0].rank, signal_number=code - _SIGNAL_CODES, is_first=is_first)
    # Of a rank that has begun this may be mpiexec's own.
    return StarterReport(rank=suspects[0].rank, exit_code=code, is_first=is_first) if absent else None


def first_to_fail(
    looks: Sequence[Look],
    failures: Sequence[Failure],
    silent: Sequence[Look],
    report: StarterReport | None,
    last_seen_alive: Callable[[int], float],
) -> Failure | Look | None:
    """Give the failure of the rank that failed first, or its look if it left no word; None where no rank has failed.

    `failures` and `silent` (ranks that are gone without a word) each have the earliest first.
    """
    # Told to end, by mpiexec when another had failed: a consequence, as long as there is anything else.
    own = [failure for failure in failures if failure.exit_code != EXIT_INTERRUPTED]
    if report is not None:
        # Of those that left no word mpiexec knows more; those that did say themselves when it was.
        absent = tuple(look for look in looks if not look.process)
        wordless = (*silent, *absent) if report.is_first else absent
        named = [look for look in wordless if look.rank == report.rank]
        if named:
            return named[0]
        # Those that are gone without a word ended after it, when mpiexec took them along.
        told = [failure for failure in own if failure.rank == report.rank]
        if told and report.is_first:
            return told[0]
    if own and silent:
        # One that was still there when the other wrote its error came later.
        return own[0] if last_seen_alive(silent[0].rank) > own[0].moment else silent[0]
    candidates: tuple[Failure | Look, ...] = (*own, *silent, *failures)
    return candidates[0] if candidates else None
