"""A result file as a machine with NPUs would write it, made by hand: what no check of the file can rule out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qvl_core.conformance import device_result
from qvl_core.conformance.device_result import DIFFERENTIATED, FORMAT, FUSED, KERNELS, content_digest, program_digest

NPU_SMI = "| npu-smi 25.2.0     Version: 25.2.0 |\n| 0     910B3     | OK |\n"


def check(kernel: str, name: str, error: float | None = 1e-4) -> dict[str, Any]:
    return {"kernel": kernel, "label": "case", "check": name, "error": error, "tolerance": 1.0, "message": ""}


def good(digests: Mapping[str, str]) -> dict[str, Any]:
    """Return content that is taken and raises the recipes of these digests."""
    values = [check(kernel, name) for kernel in KERNELS for name in ("values", "values again")]
    slopes = [check(kernel, name) for kernel in DIFFERENTIATED for name in ("gradient, contiguous", "jit gradient")]
    golden = device_result.read_golden()
    trainings = [
        {
            "recipe": name, "digest": digest, "device": "ascend", "exit_code": 0,
            "overrides": {"train.steps": 40, "output.dir": "runs/npu/x"},
            "losses": [loss * 1.01 for loss in golden["losses"]],
        }
        for name, digest in digests.items()
    ]  # fmt: skip
    return {
        "format": FORMAT, "made": "2026-11-27T00:00:00Z", "program": program_digest(), "device": "ascend",
        "device_name": "910B3", "npu_smi": NPU_SMI, "cann": "8.2.RC1", "mindspore": "2.7.0", "kernels": "ascend",
        "precision": "bfloat16", "signatures": [], "checks": values + slopes,
        "contracts": [check(kernel, "contract, float16") for kernel in FUSED],
        "self_tests": [{"kernel": str(i), "what": "x", "caught_by": ["values"]} for i in range(4)],
        "timings": [{"kernel": kernel, "label": "x", "fused_ms": 1.0, "reference_ms": 2.0} for kernel in FUSED],
        "trainings": trainings,
    }  # fmt: skip


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    return {**data, "digest": content_digest(data)}


def write(path: Path, data: Mapping[str, Any]) -> Path:
    path.write_text(json.dumps(data), encoding="utf-8")
    return path
