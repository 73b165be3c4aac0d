"""Cross-entropy of each token. Shapes: T tokens, V vocabulary."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, mint, ops

from qvl_core.kernels.domain import is_outside

IGNORE_LABEL = -100


def cross_entropy_reference(logits_TV: Tensor, labels_T: Tensor) -> Tensor:
    """Return -log softmax(logits)[label] for each token, fp32 [T], and 0 (with gradient 0) where the label is -100."""
    # fp32 whatever the logits are: the sum over 150 000 exponentials needs it.
    logits = logits_TV if logits_TV.dtype == ms.float32 else logits_TV.astype(ms.float32)
    counted_T = labels_T != IGNORE_LABEL
    column_T1 = ops.maximum(labels_T, 0).expand_dims(1)
    picked_T = ops.gather_elements(ops.log_softmax(logits, -1), 1, column_T1).squeeze(1)
    return mint.where(counted_T, -picked_T, 0.0)


def cross_entropy_ascend(logits_TV: Tensor, labels_T: Tensor) -> Tensor:
    """Return the same with mint's fused form, for labels that all exist; ignored ones are cleared afterwards.

    Not verified on a device. The operation's own ignore_index is not relied on: compiled on CPU it leaves the losses of
    ignored tokens at whatever the memory held (MindSpore 2.7.0 and 2.10.0).
    """
    if is_outside("cross_entropy", (logits_TV.dtype,), logits_TV.shape, (labels_T.dtype,)):
        return cross_entropy_reference(logits_TV, labels_T)
    logits = logits_TV if logits_TV.dtype == ms.float32 else logits_TV.astype(ms.float32)
    losses_T = mint.nn.functional.cross_entropy(logits, ops.maximum(labels_T, 0), reduction="none")
    return mint.where(labels_T != IGNORE_LABEL, losses_T, 0.0)
