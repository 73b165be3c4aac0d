"""What came of two runs: their numbers beside each other, and until which step they were the same."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qvl_train.report.metrics_file import MetricsFile
from qvl_train.report.numbers import number_text
from qvl_train.report.run_facts import RunFacts


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A number that both runs, or one of them, came to."""

    name: str
    ours: float | None
    theirs: float | None


@dataclass(frozen=True, kw_only=True)
class Course:
    """How long two runs had the same losses: to the bit through `same_until`, then other ones at `step`.

    `step` is 0 where no loss differs, `common` counts the steps that both have, and `not_finite` those of them in which
    both losses are NaN or infinite: these count as the same, one beside a number as another.
    """

    common: int
    same_until: int
    step: int = 0
    ours: float = 0.0
    theirs: float = 0.0
    not_finite: int = 0


def outcomes(ours: MetricsFile, theirs: MetricsFile) -> Iterator[Outcome]:
    """Give what two trainings came to, as far as one of them has it."""
    rows = (
        ("last loss", "loss", "last"),
        ("last validation loss", "validation_loss", "last"),
        ("lowest validation loss", "validation_loss", "min"),
        ("last accuracy, %", "eval_accuracy_percent", "last"),
        ("tokens/s, median", "tokens_per_s", "median"),
        ("step, s, median", "step_time_s", "median"),
        ("peak memory, GiB", "memory_peak_gib", "max"),
        ("last step", "", "step"),
    )
    for name, key, how in rows:
        one, other = _summary(ours, key, how), _summary(theirs, key, how)
        if one is not None or other is not None:
            yield Outcome(name=name, ours=one, theirs=other)


def scores(ours: RunFacts, theirs: RunFacts) -> Iterator[Outcome]:
    """Give the scores that an evaluation has recorded in `run.json`."""
    for name in ("accuracy_percent", "unreadable_percent", "rows"):
        one, other = ((facts.result or {}).get(name) for facts in (ours, theirs))
        if _number(one) is not None or _number(other) is not None:
            yield Outcome(name=name.replace("_percent", ", %"), ours=_number(one), theirs=_number(other))


def _number(value: object) -> float | None:
    # No score is larger, and a whole number may be larger than any float.
    return float(value) if isinstance(value, int | float) and abs(value) < 1e15 else None


def _summary(metrics: MetricsFile, key: str, how: str) -> float | None:
    if how == "step":
        return None if metrics.last_step is None else float(metrics.last_step)
    if how == "last":
        _, values = metrics.all_values(key)
        return float(values[-1]) if len(values) else None
    _, values = metrics.series(key)
    if not len(values):
        return None
    if how == "median":
        return float(np.median(values))
    return float(values.min() if how == "min" else values.max())


def course(ours: MetricsFile, theirs: MetricsFile) -> Course | None:
    """Give how long the losses of two runs are equal; None where they have no step in common."""
    our_steps, our_losses = ours.all_values("loss")
    their_steps, their_losses = theirs.all_values("loss")
    common, one, other = np.intersect1d(our_steps, their_steps, assume_unique=True, return_indices=True)
    if not len(common):
        return None
    unknown = ~(np.isfinite(our_losses[one]) | np.isfinite(their_losses[other]))
    differs = np.flatnonzero((our_losses[one] != their_losses[other]) & ~unknown)
    both = int(unknown.sum())
    if not len(differs):
        return Course(common=len(common), same_until=int(common[-1]), not_finite=both)
    at = int(differs[0])
    return Course(
        common=len(common),
        same_until=int(common[at - 1]) if at else 0,
        step=int(common[at]),
        ours=float(our_losses[one[at]]),
        theirs=float(their_losses[other[at]]),
        not_finite=both,
    )


def course_text(found: Course) -> str:
    """Say how long the losses were the same."""
    if not found.step:
        if found.not_finite == found.common:
            return f"Losses of both runs are NaN or infinite in all {found.common:,} steps that both have."
        both = f"; in {found.not_finite:,} of them both are NaN or infinite" if found.not_finite else ""
        return f"Losses are equal to the bit in all {found.common:,} steps that both runs have{both}."
    began = (
        f"equal to the bit until step {found.same_until:,}, then" if found.same_until else "different from the start:"
    )
    told = f"Losses are {began} {_told(found.ours)} against {_told(found.theirs)} at step {found.step:,}"
    if not (math.isfinite(found.ours) and math.isfinite(found.theirs)):
        return f"{told}."
    spread = abs(found.ours - found.theirs) / max(abs(found.ours), abs(found.theirs), 1e-300)
    return f"{told} (relative difference {spread:.1e})."


def _told(loss: float) -> str:
    return repr(loss) if math.isfinite(loss) else number_text(loss)
