"""Plan the merge of an adapter: the job that writes the merged HF folder, and what it says when it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from qvl_core.input_file import printable
from qvl_core.weights.lora.adapter import open_adapter
from qvl_core.weights.lora.fit import require_fit
from qvl_core.weights.lora.merge import MergeReport, merge_report, merge_transforms
from qvl_core.weights.lora.targets import Targets
from qvl_core.weights.names import Naming
from qvl_core.weights.whole_tensors import WholeTensors

from qvl_convert.plan_hf import plan_hf
from qvl_convert.progress import counted
from qvl_convert.transfer import Job

# Part of a job's identity: to be raised whenever the same adapter would give other bytes.
_ARITHMETIC = "merge arithmetic 1"
_SHOWN = 10


def plan_merge(
    source: WholeTensors, hf_files: Path, adapter: Path, *, naming: Naming, max_shard_bytes: int
) -> tuple[Job, Callable[[], tuple[list[str], dict[str, Any]]]]:
    """Give the job, and what tells after it, in lines and as JSON, what was merged. Raises WeightsError."""
    opened = open_adapter(adapter)
    dtypes = {name: tensor.dtype for name, tensor in source.tensors.items()}
    transforms = merge_transforms(opened, source.spec, dtypes)
    job = plan_hf(
        source,
        hf_files,
        kind="merge",
        naming=naming,
        max_shard_bytes=max_shard_bytes,
        transforms=transforms,
        more_identity=(_ARITHMETIC, opened.identity),
    )
    targets = require_fit(opened, source.spec)

    def report() -> tuple[list[str], dict[str, Any]]:
        found = merge_report(transforms)
        return _lines(found, targets), {"merge": _fields(found, targets)}

    # The adapter is a source as well: never written to, and compared again at the end.
    inputs, paths = (*job.inputs, *opened.inputs), (*job.source_paths, opened.path)
    return replace(job, inputs=inputs, source_paths=paths), report


def _lines(report: MergeReport, targets: Targets) -> list[str]:
    replaced = sum(one.replaced for one in report.tensors)
    touched = f"merged into {len(report.tensors):,} tensors" + (f", {replaced:,} of them replaced" if replaced else "")
    lines = [touched]
    if finished := len(report.tensors) - len(report.measured):
        lines.append(f"{finished:,} of them were finished by an earlier try; what follows is about the others")
    if report.largest is not None:
        lines.append(f"largest change of an element: {report.largest.largest:.6g} in {report.largest.name}")
    if report.unchanged:
        lines.append(
            f"{len(report.unchanged):,} of them came out as they were: the change is zero there or lost in rounding, "
            f"first in {report.unchanged[0]}"
        )
    for name, count in list(report.non_finite.items())[:_SHOWN]:
        lines.append(f"{name}: {counted(count, 'element')} of the base infinite or not a number, left so")
    if len(report.non_finite) > _SHOWN:
        lines.append(f"... and {len(report.non_finite) - _SHOWN:,} more tensors with such elements")
    if targets.unused_patterns:
        keys = ", ".join(printable(key, 80) for key in targets.unused_patterns[:10])
        count = len(targets.unused_patterns)
        lines.append(f"{count:,} keys of rank_pattern or alpha_pattern fit no adapted module: {keys}")
    if targets.contested:
        # PEFT sorts the patterns when it saves them, so that training may have gone by another order.
        lines.append(
            f"{len(targets.contested):,} modules fit several keys of rank_pattern or alpha_pattern that say different "
            f"things; the first in the file counted, as when PEFT loads it: {', '.join(targets.contested[:10])}"
        )
    return lines


def _fields(report: MergeReport, targets: Targets) -> dict[str, Any]:
    return {
        "touched_tensors": len(report.tensors),
        "replaced_tensors": sum(one.replaced for one in report.tensors),
        "measured_tensors": len(report.measured),
        "changed_elements": sum(one.changed for one in report.tensors),
        "largest_change": report.largest.largest if report.largest else None,
        "largest_change_in": report.largest.name if report.largest else None,
        "unchanged_tensors": list(report.unchanged),
        "non_finite_elements": dict(report.non_finite),
        "unused_patterns": list(targets.unused_patterns),
        "contested_modules": list(targets.contested),
    }
