"""A result file as a machine with NPUs would write it, made by hand: what no check of the file can rule out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qvl_core.conformance import device_result
from qvl_core.conformance.case_list import CONTRACT, TIMED, listed_cases
from qvl_core.conformance.device_result import FORMAT, content_digest, golden_overrides, program_digest

NPU_SMI = "| npu-smi 25.2.0     Version: 25.2.0 |\n| 0     910B3     | OK |\n"


def check(kernel: str, label: str, name: str) -> dict[str, Any]:
    error = 0.0 if name == "inputs unchanged" else 1e-4
    return {"kernel": kernel, "label": label, "check": name, "error": error, "tolerance": 1.0, "message": ""}


def timing(kernel: str, label: str) -> dict[str, Any]:
    numbers = {"fused_ms": 1.0, "reference_ms": 2.0, "spread": 0.1}
    return {"kernel": kernel, "label": label, **numbers, "message": ""}


def good(digests: Mapping[str, str]) -> dict[str, Any]:
    """Return content that is taken and raises the recipes of these digests."""
    cases = listed_cases()
    checks = [check(case.kernel, case.label, name) for case in cases for name in case.checks()]
    called = [case for case in cases if case.label.startswith(CONTRACT)]
    golden = device_result.read_golden()
    trainings = [
        {
            "recipe": name, "digest": digest, "device": "ascend", "exit_code": 0,
            "overrides": {
                **(golden_overrides("ascend") if name == golden["recipe"] else {"train.steps": 40}),
                "output.dir": "runs/npu/x",
            },
            "losses": [loss * 1.01 for loss in golden["losses"]],
        }
        for name, digest in digests.items()
    ]  # fmt: skip
    return {
        "format": FORMAT, "made": "2026-11-27T00:00:00Z", "program": program_digest(), "device": "ascend",
        "device_name": "910B3", "npu_smi": NPU_SMI, "cann": "8.2.RC1", "mindspore": "2.7.0", "kernels": "ascend",
        "precision": "bfloat16", "signatures": [], "checks": checks,
        "contracts": [check(case.kernel, case.label, "contract, float16") for case in called],
        "self_tests": [{"kernel": str(i), "what": "x", "caught_by": ["values"]} for i in range(4)],
        "timings": [timing(kernel, label) for kernel, label in TIMED],
        "trainings": trainings,
        "other_forms": [
            {
                "kernel": "attention", "form": "bsnd",
                "checks": [dict(x) for x in checks if x["kernel"] == "attention"],
                "contracts": [check(x.kernel, x.label, "contract, float16") for x in called if x.kernel == "attention"],
                "timings": [],
            }
        ],
    }  # fmt: skip


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    return {**data, "digest": content_digest(data)}


def write(path: Path, data: Mapping[str, Any]) -> Path:
    path.write_text(json.dumps(data), encoding="utf-8")
    return path
