"""Running all checks over a kernel table, and the report of it."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import mindspore as ms
import numpy as np

from qvl_core.conformance.bad_kernels import faults
from qvl_core.conformance.cases import Case, all_cases
from qvl_core.conformance.checks import Check, Precision, check_again, check_case
from qvl_core.device import current_device
from qvl_core.kernels.select import KernelTable

FORMAT = 1
_GROUPS = ("values", "inputs", "gradient", "jit values", "jit gradient")


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """Whether the suite noticed a kernel that is known to be wrong, and through which checks."""

    kernel: str
    what: str
    caught_by: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Tell whether the fault was noticed."""
        return bool(self.caught_by)


@dataclass(frozen=True, kw_only=True)
class Result:
    """The outcome of a whole run, with all that it depends on."""

    mindspore: str
    numpy: str
    python: str
    machine: str
    device: str
    kernels: str
    precision: str
    seconds: float
    checks: tuple[Check, ...]
    self_tests: tuple[SelfTest, ...]

    @property
    def passed(self) -> bool:
        """Tell whether every check holds and every known-bad kernel was caught."""
        return bool(self.checks) and all(x.passed for x in self.checks) and all(x.passed for x in self.self_tests)

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON data; an error that is not a number becomes null."""
        data = asdict(self)
        data["checks"] = [
            {**asdict(x), "error": x.error if math.isfinite(x.error) else None, "passed": x.passed} for x in self.checks
        ]
        data["self_tests"] = [{**asdict(x), "passed": x.passed} for x in self.self_tests]
        return {"format": FORMAT, "passed": self.passed, **data}


def run_suite(
    table: KernelTable,
    precision: Precision,
    *,
    jit: bool = True,
    kernels: Sequence[str] = (),
    more_cases: Sequence[Case] = (),
    tell: Callable[[str], None] = lambda line: None,
) -> Result:
    """Check the table's kernels (all, or those named) and then the suite itself; `tell` hears one line a kernel.

    `more_cases` are checked beside those of the suite; the known-bad kernels are held against the latter only.
    """
    start = time.perf_counter()
    own = [case for case in all_cases() if not kernels or case.kernel in kernels]
    cases = [*own, *more_cases]
    checks: list[Check] = []
    for kernel in dict.fromkeys(case.kernel for case in cases):
        tell(f"{kernel} ...")
        for case in cases:
            if case.kernel == kernel:
                checks += check_case(case, table, precision, jit=jit)
    tell("all of them once more, after all the others ...")
    for case in cases:
        checks += check_again(case, table, precision)
    tell("kernels that are wrong on purpose ...")
    return Result(
        mindspore=ms.__version__, numpy=np.__version__, python=platform.python_version(), machine=platform.platform(),
        device=current_device(), kernels=table.name, precision=precision, seconds=time.perf_counter() - start,
        checks=tuple(checks), self_tests=tuple(_self_test(table, precision, own)),
    )  # fmt: skip


def _self_test(table: KernelTable, precision: Precision, cases: Iterable[Case]) -> Iterable[SelfTest]:
    """Plug in each known-bad kernel and list the checks that fail in the way they should."""
    cases = tuple(cases)
    for fault in faults(table):
        mine = [case for case in cases if case.kernel == fault.kernel]
        if not mine or (fault.cpu_only and current_device() != "cpu"):
            continue
        checks = [check for case in mine for check in check_case(case, fault.table, precision, jit=False)]
        caught = dict.fromkeys(x.check for x in checks if not x.passed and x.check.startswith(fault.caught_by))
        yield SelfTest(kernel=fault.kernel, what=fault.what, caught_by=tuple(caught))


def render(result: Result) -> str:
    """Return the report for people: one line a kernel with its largest errors, then whatever failed."""
    software = f"numpy {result.numpy}, Python {result.python}"
    lines = [
        f"MindSpore {result.mindspore}, {result.device}, {result.kernels} kernels, {result.precision}, {software}",
        "",
        f"{'kernel':<18}{'checks':>7}{'failed':>8}" + "".join(f"{group:>14}" for group in _GROUPS),
    ]
    for kernel in dict.fromkeys(check.kernel for check in result.checks):
        mine = [check for check in result.checks if check.kernel == kernel]
        failed = sum(not check.passed for check in mine)
        cells = "".join(f"{_largest(mine, group):>14}" for group in _GROUPS)
        lines.append(f"{kernel:<18}{len(mine):>7}{failed:>8}{cells}")
    lines += ["", "largest error of each kind, relative to the largest entry; - where it does not apply"]
    lines += [_describe(check) for check in result.checks if not check.passed]
    missed = [test for test in result.self_tests if not test.passed]
    caught = len(result.self_tests) - len(missed)
    lines.append(f"the suite on itself: caught {caught} of {len(result.self_tests)} kernels that are wrong on purpose")
    lines += [f"  MISSED {test.kernel}: {test.what}" for test in missed]
    failed = sum(not check.passed for check in result.checks)
    verdict = "conforms" if result.passed else "DOES NOT CONFORM"
    lines.append(f"{verdict}: {len(result.checks)} checks, {failed} failed, {result.seconds:.0f} s")
    return "\n".join(lines)


def _largest(checks: Sequence[Check], group: str) -> str:
    errors = [check.error for check in checks if check.check.startswith(group)]
    return f"{max(errors):.1e}" if errors else "-"


def _describe(check: Check) -> str:
    outcome = check.message or f"error {check.error:.2e}, at most {check.tolerance:.0e} is allowed"
    return f"  FAILED {check.kernel}, {check.label}, {check.check}: {outcome}"
