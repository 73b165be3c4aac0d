"""Command line of the conformance suite. Exit code 0: conforms; 1: it does not; 2: wrong input; 3: not installed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from qvl_core.errors import EXIT_DONE, EXIT_FAILED, OutputError, Problem, QvlError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite as the arguments say and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except QvlError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m qvl_core.conformance",
        description="Check the kernels on this MindSpore and this device against their definitions.",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole result there")
    parser.add_argument(
        "--kernels", choices=("auto", "reference", "ascend", "bsnd"), default="auto",
        help="which forms; bsnd: those of ascend with attention in the BSND layout",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=("float32", "float16", "bfloat16"),
        help="of the inputs; left out: bfloat16 for the Ascend forms, float32 for the reference",
    )  # fmt: skip
    parser.add_argument("--no-jit", action="store_true", help="leave out compiled execution (most of the time)")
    parser.add_argument(
        "--contracts", action="store_true",
        help="only whether the calls of the Ascend forms are as documented: signatures and arguments, without a device",
    )  # fmt: skip
    parser.add_argument("--only", nargs="+", default=(), metavar="KERNEL", help="these kernels only")
    return parser


def _check_contracts() -> int:
    """Check the contracts of the Ascend forms on the MindSpore of this machine; tell what does not hold."""
    from qvl_core.kernels import select

    table = select.ascend_table()
    from qvl_core.conformance.contract_cases import contract_cases
    from qvl_core.conformance.contracts import check_contract
    from qvl_core.conformance.signatures import differences

    cases = contract_cases()
    checks = [check_contract(case, table) for case in cases]
    # The other form of a kernel, which runs only where it is asked for, with the same cases.
    other = [check_contract(case, select.bsnd_table()) for case in cases if case.kernel == "attention"]
    checks += [replace(check, label=f"{check.label}, bsnd") for check in other]
    broken = [x for x in checks if not x.passed]
    for difference in differences():
        _say(sys.stdout, f"  FAILED signature: {difference}")
    for x in broken:
        outcome = x.message or f"error {x.error:.2e}, at most {x.tolerance:.0e} is allowed"
        _say(sys.stdout, f"  FAILED {x.kernel}, {x.label}: {outcome}")
    for x in checks:
        if x.relies_on:
            _say(sys.stdout, f"  NOT IN MINDSPORE'S DOCSTRING {x.kernel}, {x.label}: relies on {x.relies_on}")
    holds = not broken and not differences()
    verdict = "the contracts hold" if holds else "THE CONTRACTS DO NOT HOLD"
    _say(sys.stdout, f"{verdict}: {len(checks)} calls, {len(broken)} wrong; nothing was run on a device")
    return EXIT_DONE if holds else EXIT_FAILED


def _run(options: argparse.Namespace) -> int:
    if options.contracts:
        return _check_contracts()
    # Imported here, so that --help needs no mindspore.
    from qvl_core.kernels import select

    table = select.use(options.kernels)
    from qvl_core.conformance.cases import all_cases
    from qvl_core.conformance.checks import Precision
    from qvl_core.conformance.suite import render, run_suite

    known = dict.fromkeys(case.kernel for case in all_cases())
    unknown = [name for name in options.only if name not in known]
    if unknown:
        sys.stderr.write(f"unknown kernel {', '.join(unknown)}; there are {', '.join(known)}\n")
        return 2
    own: Precision = "bfloat16" if table.name == "ascend" else "float32"
    precision: Precision = options.precision or own
    result = run_suite(
        table, precision, jit=not options.no_jit, kernels=options.only,
        tell=lambda line: _say(sys.stderr, line),
    )  # fmt: skip
    _say(sys.stdout, render(result))
    if options.json is not None:
        _write(options.json, json.dumps(result.as_json(), indent=1))
    return EXIT_DONE if result.passed else EXIT_FAILED


def _say(stream: TextIO, text: str) -> None:
    stream.write(f"{text}\n")


def _write(path: Path, text: str) -> None:
    # A report for people, small and easy to make again: not worth an atomic write.
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(
            Problem(
                where=str(path),
                message=f"cannot be written: {error.strerror}",
                fix="name a file in a folder that exists",
            )
        ) from error


if __name__ == "__main__":
    sys.exit(main())
