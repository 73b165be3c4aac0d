"""Whether a measured step is right: every parameter's gradient against torch's, and a loss that falls alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.shape import SMALL, read_tensors, trained_names

# Of the norm of each parameter's gradient: fp32 sums in another order, through 20 layers.
GRADIENT_TOLERANCE = 1e-4
# Of a loss, after a few updates.
LOSS_TOLERANCE = 1e-3
SHOWN = 3


def compare_gradients(folder: Path, frozen: Sequence[str]) -> dict[str, Any]:
    """Give the largest relative errors, |ours - theirs| / |theirs| over a parameter, and whether all are small."""
    theirs = dict(read_tensors(SMALL, folder / "theirs.f32"))
    errors = {}
    names = set(trained_names(SMALL, frozen))
    for name, ours in read_tensors(SMALL, folder / "ours.f32"):
        if name in names:
            size = float(np.linalg.norm(theirs[name].ravel()))
            errors[name] = float(np.linalg.norm((ours - theirs[name]).ravel())) / size if size else float("inf")
    worst = sorted(errors, key=errors.__getitem__, reverse=True)[:SHOWN]
    return {
        "parameters": len(errors),
        "tolerance": GRADIENT_TOLERANCE,
        "largest_relative_errors": {name: float(f"{errors[name]:.2e}") for name in worst},
        # Not "no error is large": a NaN is not large.
        "passed": set(errors) == names and all(error <= GRADIENT_TOLERANCE for error in errors.values()),
    }


def compare_losses(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Give both curves over the full steps, and whether each falls and they are the same curve."""
    falls = all(curve[-1] < curve[0] for curve in (ours, theirs))
    difference = max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))
    return {
        "ours": [round(value, 6) for value in ours],
        "torch": [round(value, 6) for value in theirs],
        "largest_relative_difference": float(f"{difference:.2e}"),
        "passed": falls and difference <= LOSS_TOLERANCE,
    }
