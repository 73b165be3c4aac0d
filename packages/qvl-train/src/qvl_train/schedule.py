"""How many steps there are, and the learning rate of each: pure functions, so that a resumed run needs no state."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from qvl_core.recipe.sections import TrainSection
    from qvl_data import PreparedData

ScheduleName = Literal["cosine", "linear", "constant"]


def count_steps(train: TrainSection, data: PreparedData) -> int:
    """Give the number of optimizer steps: stated, or the whole global batches in the stated epochs, at least 1.

    An epoch counts items: samples, or packs of samples.
    """
    if train.steps is not None:
        return train.steps
    assert train.epochs is not None, "the schema allows steps or epochs"
    return max(1, train.epochs * data.report.epoch_length // train.global_batch)


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
