"""How the losses of single tokens become one number: the weight of each token, found on the host.

With the weights known, the loss of a micro batch is a plain weighted sum, and the sum over all micro batches of all
data-parallel ranks is the loss of the global batch: no micro batch with few or no labels can distort or break it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from qvl_core.batch import IGNORE, Batch

Reduction = Literal["token", "sample", "micro_batch"]


def loss_weights(batches: Sequence[Batch], reduction: Reduction) -> list[NDArray[np.float32]]:
    """Give, for each micro batch of one step, the weight of each row of `Batch.loss_rows`.

    `token`: every labelled token of the step counts the same. `sample`: every sample with a label counts the same,
    its tokens share its weight. `micro_batch`: every micro batch with a label counts the same (the reference stack's
    rule, which makes the result depend on how samples are grouped). The weights of a step add up to 1, or are all 0
    where nothing has a label.
    """
    labelled = [batch.labels != IGNORE for batch in batches]
    weights = [np.zeros(len(mask), np.float64) for mask in labelled]
    groups = [
        (index, part)
        for index, batch in enumerate(batches)
        for part in _groups(batch, reduction)
        if labelled[index][part].any()
    ]
    total_tokens = sum(int(mask.sum()) for mask in labelled)
    for index, part in groups:
        in_group = labelled[index][part]
        share = 1.0 / total_tokens if reduction == "token" else 1.0 / (len(groups) * int(in_group.sum()))
        weights[index][part] = np.where(in_group, share, 0.0)
    return [weight[batch.loss_rows].astype(np.float32) for weight, batch in zip(weights, batches, strict=True)]


def _groups(batch: Batch, reduction: Reduction) -> list[slice]:
    """Cut a micro batch into the parts whose tokens share one weight."""
    if reduction != "sample":
        return [slice(0, batch.tokens)]
    ends = np.cumsum(batch.sequence_lengths)
    return [slice(int(end) - length, int(end)) for end, length in zip(ends, batch.sequence_lengths, strict=True)]
