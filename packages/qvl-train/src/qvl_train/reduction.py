"""Loss weights of a global batch: how much each token, sample or micro batch counts. numpy only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from qvl_core.batch import IGNORE, Batch

Reduction = Literal["token", "sample", "micro_batch"]


def count_units(batches: Sequence[Batch], reduction: Reduction) -> int:
    """Count what shares the loss of one replica's micro batches: labelled tokens, or samples or micro batches with any.

    Added up over the replicas, it is the total that `loss_weights` needs.
    """
    if reduction == "token":
        return sum(int(np.count_nonzero(batch.labels != IGNORE)) for batch in batches)
    return sum(1 for batch in batches for _ in _labelled_groups(batch, reduction))


def loss_weights(batches: Sequence[Batch], reduction: Reduction, total: int) -> list[NDArray[np.float32]]:
    """Give, for each micro batch of one replica, the weight of each row of `Batch.loss_rows`.

    `total` counts the units of all replicas (`count_units`). `token`: every labelled token of the step counts the same.
    `sample`: every sample with a label counts the same, its tokens share its weight. `micro_batch`: every micro batch
    with a label counts the same (the reference stack's rule, which makes the result depend on how samples are grouped).
    The weights of a step add up to 1 over all replicas, or are all 0 where nothing has a label.
    """
    return [_weights(batch, reduction, total)[batch.loss_rows].astype(np.float32) for batch in batches]


def _weights(batch: Batch, reduction: Reduction, total: int) -> NDArray[np.float64]:
    weights = np.zeros(batch.tokens, np.float64)
    labelled = batch.labels != IGNORE
    for part in _labelled_groups(batch, reduction):
        in_group = labelled[part]
        share = 1.0 / total if reduction == "token" else 1.0 / (total * int(in_group.sum()))
        weights[part] = np.where(in_group, share, 0.0)
    return weights


def _labelled_groups(batch: Batch, reduction: Reduction) -> Iterator[slice]:
    """Cut a micro batch into the parts whose tokens share one weight; those without a label are left out."""
    labelled = batch.labels != IGNORE
    ends = np.cumsum(batch.sequence_lengths) if reduction == "sample" else np.array([batch.tokens])
    starts = [0, *ends[:-1]]
    for start, end in zip(starts, ends, strict=True):
        if labelled[start:end].any():
            yield slice(int(start), int(end))
