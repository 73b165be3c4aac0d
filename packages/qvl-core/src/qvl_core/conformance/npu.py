"""What `nox -s npu` runs: everything about the kernels that only a machine with NPUs can prove, into one file.

In order: trainings (while no other process holds the device), signatures and contracts (without the device), every case
with the fused forms (values, gradients, compiled), fused against reference in time. The file is written then, and once
more with attention in its other form, which comes last. `qvl recipes` shows it and raises recipes by it: see
device_result.
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

from qvl_core.conformance.device_result import (
    FORMAT,
    NPU_NAME,
    RESULT_FILE,
    DeviceResult,
    content_digest,
    judge,
    program_digest,
)
from qvl_core.conformance.trainings import train
from qvl_core.device import current_device
from qvl_core.durable import atomic_write
from qvl_core.errors import EXIT_DONE, EXIT_FAILED, NotInstalledError, QvlError
from qvl_core.machine import cann_version, toolkit_home

if TYPE_CHECKING:
    from qvl_core.conformance.suite import Result
    from qvl_core.conformance.timing import Task
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
    path = options.out or (options.runs / RESULT_FILE if options.rehearse else SHOWN)
    data, tasks = _kernels(options)
    data["trainings"] = trainings
    # Before the other form, which no recipe needs: a device or a process that it takes along costs nothing else then.
    _tell_result(path, _write(data, path))
    data["other_forms"] = [_bsnd(options, tasks)]
    result = _write(data, path)
    for form in result.other_forms:
        _tell(f"  {form}")
    return EXIT_FAILED if (_broken(data) if options.rehearse else result.problems) else EXIT_DONE


def _kernels(options: argparse.Namespace) -> tuple[dict[str, Any], list[Task]]:
    """Check and time the fused kernels; return the content of the file, and the tasks of attention, to use again."""
    # Imported here: --help needs no mindspore, and no device is held while the trainings run.
    from qvl_core.kernels import select

    fused, reference = select.use("reference" if options.rehearse else "ascend"), select.reference_table()
    from qvl_core.conformance import signatures
    from qvl_core.conformance.contract_cases import contract_cases
    from qvl_core.conformance.contracts import check_contract
    from qvl_core.conformance.other_form import KERNEL, plain
    from qvl_core.conformance.suite import render, run_suite
    from qvl_core.conformance.timing import measure, tasks_of_7b

    cases = contract_cases()
    _tell(f"contracts: {len(cases)} calls, without the device ...")
    contracts = [check_contract(case, select.ascend_table()) for case in cases]
    result = run_suite(
        fused, _precision(options), jit=not options.no_jit,
        kernels=("swiglu",) if options.rehearse else (), more_cases=() if options.rehearse else cases, tell=_tell,
    )  # fmt: skip
    _tell(render(result))
    _tell("fused against reference ...")
    small: dict[str, Any] = {"divide": 64, "dtype": "float32"} if options.rehearse else {}
    tasks = tasks_of_7b(**small)
    timings = measure(fused, reference, tasks, rounds=_rounds(options), tell=_tell)
    data = {
        **_origin(result), "signatures": list(signatures.differences()),
        "contracts": plain(contracts),
        **{key: result.as_json()[key] for key in ("checks", "self_tests", "seconds")},
        "timings": [asdict(timing) for timing in timings],
    }  # fmt: skip
    return data, [task for task in tasks if task.kernel == KERNEL]


def _bsnd(options: argparse.Namespace, tasks: Sequence[Task]) -> dict[str, Any]:
    """Check and time attention in its other form; what ends that early stands in the form's part of the file."""
    from qvl_core.conformance import other_form
    from qvl_core.kernels import select

    _tell("attention in the form bsnd ...")
    try:
        return other_form.other_form(
            select.reference_table() if options.rehearse else select.use("bsnd"), _precision(options),
            jit=not options.no_jit, tasks=tasks, rounds=_rounds(options), small=options.rehearse, tell=_tell,
        )  # fmt: skip
    # Whatever a device or MindSpore raises: it must not cost what the usual form has proven.
    except Exception as error:
        message = f"{type(error).__name__}: {str(error).strip()[:200]}"
        return {
            "kernel": other_form.KERNEL, "form": other_form.FORM, "message": message,
            "contracts": [], "checks": [], "timings": [],
        }  # fmt: skip


def _precision(options: argparse.Namespace) -> Precision:
    stated: Precision = "float32" if options.rehearse else options.precision
    return stated


def _rounds(options: argparse.Namespace) -> int:
    return 2 if options.rehearse else 10


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
    # Of the file itself there is no message, nor of a form that was tried to its end.
    refused = any(x.get("message") for part in parts for x in (part, *part["timings"]))
    return not passed or refused or bool(data["signatures"]) or any(x["exit_code"] != 0 for x in data["trainings"])


def _write(data: Mapping[str, Any], path: Path) -> DeviceResult:
    """Write the result file, sealed, and judge it."""
    finished = {**data, "digest": content_digest(data)}
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(finished, indent=1) + "\n")
    return judge(finished)


def _tell_result(path: Path, result: DeviceResult) -> None:
    """Tell what the file is worth, or why it is not taken."""
    _tell(f"result: {path}")
    for problem in result.problems:
        _tell(f"  not taken: {problem}")
    for training in result.trainings:
        verified = result.verifies(training.recipe, training.digest)
        _tell(f"  {training.recipe}: {'device-verified' if verified else 'not verified'}")


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
