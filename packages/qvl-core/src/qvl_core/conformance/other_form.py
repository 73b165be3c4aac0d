"""A kernel in another form than the table's own, checked as the usual form is: for the result file of a device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from qvl_core.conformance.checks import Precision
from qvl_core.conformance.contract_cases import contract_cases
from qvl_core.conformance.contracts import ContractCheck, check_contract
from qvl_core.conformance.suite import run_suite
from qvl_core.conformance.timing import Task, measure
from qvl_core.kernels import select
from qvl_core.kernels.select import KernelTable

KERNEL, FORM = "attention", "bsnd"


def other_form(
    table: KernelTable,
    precision: Precision,
    *,
    jit: bool,
    tasks: Sequence[Task],
    rounds: int,
    small: bool,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Check and time full attention with masks (`QVL_KERNELS=bsnd:attention`), with the cases of the usual form.

    `table` has the form, or the reference in a rehearsal, which is `small`. Gives the form's part of the result file.
    """
    cases = [case for case in contract_cases() if case.kernel == KERNEL]
    contracts = [check_contract(case, select.bsnd_table()) for case in cases]
    result = run_suite(
        table, precision, jit=jit and not small, kernels=(KERNEL,), more_cases=() if small else cases, tell=tell
    )
    mine = [task for task in tasks if task.kernel == KERNEL]
    timings = measure(table, select.reference_table(), mine, rounds=rounds, tell=tell)
    return {
        "kernel": KERNEL, "form": FORM, "contracts": plain(contracts), "checks": result.as_json()["checks"],
        "timings": [asdict(timing) for timing in timings],
    }  # fmt: skip


def plain(contracts: Sequence[ContractCheck]) -> list[dict[str, Any]]:
    """Return contracts as plain JSON data; an error that is no number becomes null."""
    return [{**asdict(x), "error": x.error if math.isfinite(x.error) else None} for x in contracts]
