"""Measure a training step against HF transformers on torch, on one core of this machine; print JSON. Needs torch.

    python benchmarks/training_speed.py [--rounds 3] [--quick] [--case TEXT] [--core N]      or: nox -s bench-torch

The model is the shape `small`: 92.4 million parameters (text 384 wide, 12 layers, 151,936 tokens, tied; vision 256
wide, 8 blocks), random weights, the same in both. One sample of 512 tokens, 256 of them a picture of 448 x 448. Each
side is a process of its own on the same core with one thread; in every round they take turns: a busy machine slows
both, and a ratio is that of a round: median, least and most.

`forward` is the loss without gradients. `forward_backward` adds the gradients of everything that is trained. `step` is
forward, backward, clipping to a norm of 1, and AdamW (theirs fused). Nobody reads data. Labels are on the text tokens
(255: the first has nothing before it), where ours computes logits of those rows alone and HF of all 512; or on all
tokens (511), where both do the same.

Before any time is taken, the gradient of every parameter is compared with torch's: the program ends with 1 where one
differs by more than 1e-4 of its norm, or where the loss does not fall over the measured steps. 3: torch is missing.

`peak_gib` is the process's largest resident memory in that kind of work, weights and (for `step`) moments included;
`forward` of the first round is the only one before any gradient was taken.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from training.case import CASES, Case
from training.check import compare_gradients, compare_losses
from training.shape import SMALL, make_sample, write_weights
from training.sides import FailedError, Side, ratios, summary

WORK = ("forward", "forward_backward", "step")


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, help="3; 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="one round of the first two cases")
    parser.add_argument("--case", default="", help="only the cases whose name holds this")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    given = parser.parse_args()
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"{' and '.join(missing)}: not installed\nfix: nox -s bench-torch, which installs them", file=sys.stderr)
        sys.exit(3)
    rounds = given.rounds or (1 if given.quick else 3)
    cases = [case for case in (CASES[:2] if given.quick else CASES) if given.case in case.name]
    report: dict[str, Any] = {
        "machine": {
            "core": given.core,
            "processor": _processor(),
            "python": platform.python_version(),
            "load_at_start": os.getloadavg()[0],
        },
        "rounds": rounds,
        "cases": {},
    }
    try:
        for case in cases:
            report["cases"][case.name] = _measure(case, rounds, given.core, report["machine"])
    except FailedError as error:
        sys.exit(str(error))
    report["machine"]["load_at_end"] = os.getloadavg()[0]
    print(json.dumps(report, indent=2))
    checks = [found[check] for found in report["cases"].values() for check in ("gradients", "losses")]
    sys.exit(0 if all(check["passed"] for check in checks) else 1)


def _measure(case: Case, rounds: int, core: int, machine: dict[str, Any]) -> dict[str, Any]:
    """Give the figures of one case from two fresh processes; the first round of each kind of work is not counted."""
    tokens = make_sample(SMALL, case.labels).input_ids.size
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_weights(SMALL, folder / "weights.f32")
        with (
            Side("ours_program.py", folder, core, case) as ours,
            Side("torch_program.py", folder, core, case) as theirs,
        ):
            machine["versions"] = {**ours.start["versions"], **theirs.start["versions"]}
            first = {side.name: side.ask("forward")["peak_gib"] for side in (ours, theirs)}
            for side in (ours, theirs):
                side.ask("save_gradients")
            gradients = compare_gradients(folder, case.frozen)
            answers = _rounds(ours, theirs, rounds)
    found: dict[str, Any] = {
        "labels": case.labels,
        "frozen": list(case.frozen),
        "head_rows": {"ours": _labelled(case), "torch": tokens},
        "resident_after_loading_gib": {side.name: side.start["resident_gib"] for side in (ours, theirs)},
        "first_forward_peak_gib": first,
        "gradients": gradients,
        "losses": compare_losses(
            *([answer["value"] for answer in answers[side.name]["step"]] for side in (ours, theirs))
        ),
    }
    for work in WORK:
        # The first round warms up: compiled code, caches, memory pools.
        mine, other = (answers[side.name][work][1:] for side in (ours, theirs))
        found[work] = {
            "ours": summary(mine, tokens), "torch": summary(other, tokens), "ours_to_torch": ratios(mine, other),
        }  # fmt: skip
    return found


def _rounds(ours: Side, theirs: Side, rounds: int) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Give all answers, by side and kind of work; one round more than asked for."""
    answers: dict[str, dict[str, list[dict[str, Any]]]] = {
        side.name: {work: [] for work in WORK} for side in (ours, theirs)
    }
    for number in range(rounds + 1):
        for work in WORK:
            # Who begins changes: what comes second may find a warmer or a busier machine.
            for side in (ours, theirs) if number % 2 else (theirs, ours):
                answers[side.name][work].append(side.ask(work))
    return answers


def _labelled(case: Case) -> int:
    return int((make_sample(SMALL, case.labels).labels[0, 1:] >= 0).sum())


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
