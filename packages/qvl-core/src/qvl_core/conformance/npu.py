"""What `nox -s npu` runs: everything about the kernels that only a machine with NPUs can prove, into one file.

In order: trainings (while no other process holds the device), signatures and contracts (without the device), every case
with the fused forms (values, gradients, compiled), fused against reference in time, and at last attention in its other
form. `qvl recipes` shows the file, and raises recipes by it: see device_result.
`--rehearse` goes the same way on a CPU with the reference forms; its file is never taken.

Exit codes: 0, all is well; 1, something does not conform; 2, wrong input; 3, no MindSpore, or no NPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvl_core.conformance.device_result import FORMAT, NPU_NAME, RESULT_FILE, content_digest, judge, program_digest
from qvl_core.conformance.trainings import train
from qvl_core.device import current_device
from qvl_core.durable import atomic_write
from qvl_core.errors import EXIT_DONE, EXIT_FAILED, NotInstalledError, QvlError
from qvl_core.machine import cann_version, toolkit_home

if TYPE_CHECKING:
    from qvl_core.conformance.suite import Result
    from qvl_core.conformance.tolerance import Precision

TINY = Path("recipes/tiny_sft.toml")
# Where `qvl recipes` looks.
SHOWN = Path("recipes") / RESULT_FILE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program as the arguments say and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _prove(options)
    except QvlError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m qvl_core.conformance.npu",
        description="Prove kernels and recipes on this machine's NPUs; write one result file.",
    )
    parser.add_argument(
        "recipes", nargs="*", type=Path, metavar="RECIPE",
        help=f"training recipes to verify by 20 steps each, beside {TINY}, which always runs",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"result file: {SHOWN}, or {RESULT_FILE} in --runs for a rehearsal"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/npu"), metavar="DIR", help="where trainings write")
    parser.add_argument("--precision", choices=("float16", "bfloat16"), default="bfloat16", help="of the cases")
    parser.add_argument(
        "--no-jit", action="store_true", help="leave out compiled execution; the file is not taken then"
    )
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, small: the file is never taken")
    return parser


def _prove(options: argparse.Namespace) -> int:
    device = "cpu" if options.rehearse else "ascend"
    if current_device() != device:
        raise NotInstalledError(
            f"this program is for a machine with NPUs; this process runs on {current_device()}\n"
            "  fix: run it where `qvl doctor` finds an NPU, or add --rehearse to see on a CPU what it does"
        )
    trainings = [_train(path, options, device) for path in dict.fromkeys([TINY, *options.recipes])]
    # Imported here: --help needs no mindspore, and no device is held while the trainings run.
    from qvl_core.kernels import select

    fused, reference = select.use("reference" if options.rehearse else "ascend"), select.reference_table()
    from qvl_core.conformance import signatures
    from qvl_core.conformance.contract_cases import contract_cases
    from qvl_core.conformance.contracts import check_contract
    from qvl_core.conformance.other_form import other_form, plain
    from qvl_core.conformance.suite import render, run_suite
    from qvl_core.conformance.timing import measure, tasks_of_7b

    cases = contract_cases()
    _tell(f"contracts: {len(cases)} calls, without the device ...")
    contracts = [check_contract(case, select.ascend_table()) for case in cases]
    precision: Precision = "float32" if options.rehearse else options.precision
    result = run_suite(
        fused, precision, jit=not options.no_jit,
        kernels=("swiglu",) if options.rehearse else (), more_cases=() if options.rehearse else cases, tell=_tell,
    )  # fmt: skip
    _tell(render(result))
    _tell("fused against reference ...")
    small: dict[str, Any] = {"divide": 64, "dtype": "float32"} if options.rehearse else {}
    rounds = 2 if options.rehearse else 10
    timings = measure(fused, reference, tasks_of_7b(**small), rounds=rounds, tell=_tell)
    # Last: a device that an operation has thrown off its track may fail at all that comes after it.
    _tell("attention in the form bsnd ...")
    bsnd = other_form(
        reference if options.rehearse else select.use("bsnd"), precision, jit=not options.no_jit,
        tasks=tasks_of_7b(**small), rounds=rounds, small=options.rehearse, tell=_tell,
    )  # fmt: skip
    data = {
        **_origin(result), "signatures": list(signatures.differences()),
        "contracts": plain(contracts),
        **{key: result.as_json()[key] for key in ("checks", "self_tests", "seconds")},
        "timings": [asdict(timing) for timing in timings], "trainings": trainings, "other_forms": [bsnd],
    }  # fmt: skip
    problems = _write(data, options.out or (options.runs / RESULT_FILE if options.rehearse else SHOWN))
    return EXIT_FAILED if (_broken(data) if options.rehearse else problems) else EXIT_DONE


def _train(path: Path, options: argparse.Namespace, device: str) -> Mapping[str, Any]:
    _tell(f"training {path} ...")
    return train(path, options.runs / path.stem, device=device)


def _origin(result: Result) -> dict[str, Any]:
    """Return what the result depends on: device, software, and the code that was run."""
    return {
        "format": FORMAT, "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "program": program_digest(),
        "device": result.device, "device_name": device_name(npu_smi()), "npu_smi": npu_smi(), "cann": _cann(),
        "mindspore": result.mindspore, "numpy": result.numpy, "python": result.python, "machine": platform.platform(),
        "kernels": result.kernels, "precision": result.precision,
    }  # fmt: skip


def _cann() -> str:
    home = toolkit_home()
    return (cann_version(home) if home is not None else "") or "unknown"


def npu_smi() -> str:
    """Return what `npu-smi info` prints, "" where it is not to be had."""
    try:
        found = subprocess.run(["npu-smi", "info"], capture_output=True, errors="replace", timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout[:20_000]


def device_name(table: str) -> str:
    """Return the name of the first NPU in the table of `npu-smi info`: "910B3"; "no NPU" where there is none."""
    found = NPU_NAME.search(table)
    return found[0] if found else "no NPU"


def _broken(data: Mapping[str, Any]) -> bool:
    """Tell whether a rehearsal met anything wrong; that its file is not taken is no fault of it."""
    # An error that is no number is None in the file.
    parts = (data, *data.get("other_forms", ()))
    checks = [x for part in parts for x in (*part["checks"], *part["contracts"])]
    passed = all(x["error"] is not None and x["error"] <= x["tolerance"] and not x["message"] for x in checks)
    refused = any(x["message"] for part in parts for x in part["timings"])
    return not passed or refused or bool(data["signatures"]) or any(x["exit_code"] != 0 for x in data["trainings"])


def _write(data: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Write the result file and tell what it is worth; give why it is not taken."""
    finished = {**data, "digest": content_digest(data)}
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(finished, indent=1) + "\n")
    verdict = judge(finished)
    _tell(f"result: {path}")
    for problem in verdict.problems:
        _tell(f"  not taken: {problem}")
    for form in verdict.other_forms:
        _tell(f"  {form}")
    for training in verdict.trainings:
        verified = verdict.verifies(training.recipe, training.digest)
        _tell(f"  {training.recipe}: {'device-verified' if verified else 'not verified'}")
    return verdict.problems


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
