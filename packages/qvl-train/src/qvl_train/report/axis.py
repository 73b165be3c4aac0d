"""Axes of a chart: which range is drawn, linear or logarithmic, and where its labels stand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A range of more than this is drawn in decades, where all of it is above 0 and that is wished for.
_DECADES_FROM = 30.0
# Single values beyond so many times the 99th percentile would press all others flat.
_OUTLIER = 3.0
_FEW_LABELS = 3


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A range with its labels. `place` gives 0 to 1; values beyond the range lie on its edge."""

    low: float
    high: float
    labels: tuple[float, ...]
    is_log: bool = False

    def place(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give where values lie, 0 at `low` and 1 at `high`, float64 of the same shape."""
        inside = np.clip(values, self.low, self.high)
        if self.is_log:
            return np.log(inside / self.low) / math.log(self.high / self.low)
        return (inside - self.low) / (self.high - self.low)


def step_axis(first: int, last: int, *, labels: int) -> Axis:
    """Give the axis of steps, about so many labels, all of them whole steps."""
    last = max(last, first + 1)
    step = max(1, round(_round_step((last - first) / labels)))
    found = tuple(float(at) for at in range(-(-first // step) * step, last + 1, step))
    return Axis(low=first, high=last, labels=found)


def value_axis(series: Sequence[NDArray[np.float64]], *, may_be_log: bool = False, from_zero: bool = False) -> Axis:
    """Give the axis that shows all series; a few values far above all others are left to its edge."""
    values = np.concatenate([*series, np.empty(0)])
    if not len(values):
        return Axis(low=0.0, high=1.0, labels=(0.0, 1.0))
    low, high = float(values.min()), float(values.max())
    if may_be_log and low > 0 and high / low > _DECADES_FROM:
        return _log_axis(low, high)
    usual = float(np.percentile(values, 99))
    if len(values) >= 20 and usual > 0 and high > _OUTLIER * usual:
        high = usual * 1.2
    if from_zero:
        low = min(0.0, low)
    if high == low:
        spread = abs(high) * 0.1 or 1.0
        low, high = (0.0, high * 1.25) if from_zero and high > 0 else (low - spread, high + spread)
    return _linear_axis(low, high)


def _linear_axis(low: float, high: float) -> Axis:
    step = _round_step((high - low) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    labels = tuple(float(f"{at * step:.12g}") for at in range(first, last + 1))
    return Axis(low=labels[0], high=labels[-1], labels=labels)


def _log_axis(low: float, high: float) -> Axis:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    all_labels = [factor * 10.0**power for power in range(first, last + 1) for factor in (1, 2, 5)]
    below = max(label for label in all_labels if label <= low * (1 + 1e-9))
    above = min((label for label in all_labels if label >= high * (1 - 1e-9)), default=all_labels[-1])
    inside = [label for label in all_labels if below <= label <= above]
    decades = [label for label in inside if math.log10(label) % 1 < 1e-9 or 1 - math.log10(label) % 1 < 1e-9]
    if len(decades) > _FEW_LABELS:
        every = -(-len(decades) // 6)
        labels = decades[::every]
    else:
        labels = inside
    return Axis(low=below, high=above, labels=tuple(float(f"{label:.6g}") for label in labels), is_log=True)


def _round_step(wanted: float) -> float:
    """Give 1, 2 or 5 times a power of ten that is at least what is wanted."""
    if wanted <= 0 or not math.isfinite(wanted):
        return 1.0
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= wanted * (1 - 1e-9))
