"""The learning rate as a pure function of the step, so that a resumed run needs no state for it."""

from __future__ import annotations

import math
from typing import Literal

ScheduleName = Literal["cosine", "linear", "constant"]


def learning_rate(step: int, *, steps: int, peak: float, minimum: float, warmup: float, name: ScheduleName) -> float:
    """Give the rate of update `step` (1 .. `steps`).

    It rises linearly over the first `warmup` fraction of all steps, reaches `peak` with the last of them, and falls
    to `minimum` at step `steps` (`constant` stays at the peak). Cosine decay as in SGDR (arXiv 1608.03983, section 3),
    without restarts.
    """
    warmup_steps = round(warmup * steps)
    if step <= warmup_steps:
        return peak * step / warmup_steps
    if name == "constant":
        return peak
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    remaining = 0.5 * (1.0 + math.cos(math.pi * progress)) if name == "cosine" else 1.0 - progress
    return minimum + (peak - minimum) * remaining
