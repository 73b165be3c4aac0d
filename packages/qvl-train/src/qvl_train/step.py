"""One optimizer step: losses and gradients of its micro batches, clipping, update. Stops at a NaN or infinity."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray
from qvl_core.batch import IGNORE, Batch
from qvl_core.errors import RunError
from qvl_core.model import Qwen25VL

from qvl_train.gradients import accumulate, clip_scale, global_norm
from qvl_train.optimizer import AdamW
from qvl_train.reduction import Reduction, loss_weights


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step did. `tokens` counts all tokens, `loss_tokens` those with a label; times in seconds."""

    loss: float
    gradient_norm: float
    tokens: int
    loss_tokens: int
    samples: int
    gradient_s: float
    optimizer_s: float


class TrainStep:
    """Compute gradients over one global batch and apply them."""

    def __init__(self, model: Qwen25VL, optimizer: AdamW, *, clip_norm: float, reduction: Reduction) -> None:
        self._model = model
        self._optimizer = optimizer
        self._clip_norm = clip_norm
        self._reduction = reduction
        self._gradient: Callable[..., tuple[Tensor, Sequence[Tensor]]] = ms.value_and_grad(
            self._weighted_loss, grad_position=None, weights=trainable_parameters(model)
        )

    def __call__(self, micro_batches: Sequence[Batch], *, lr: float, step: int) -> StepResult:
        """Run update number `step` (from 1). Raises RunError, before anything is changed, on a non-finite number."""
        started = time.perf_counter()
        loss, gradients = 0.0, None
        for batch, weights in zip(micro_batches, loss_weights(micro_batches, self._reduction), strict=True):
            part, new = self._gradient(self._model.plan(batch), Tensor(weights))
            value = float(part.asnumpy())
            if not math.isfinite(value):
                raise RunError(_not_finite("loss", value, step, [batch]))
            loss += value
            gradients = accumulate(gradients, new)
        assert gradients is not None, "a step without micro batches"
        norm = global_norm(gradients)
        if not math.isfinite(norm):
            raise RunError(_not_finite("gradient norm", norm, step, micro_batches))
        computed = time.perf_counter()
        scale = clip_scale(norm, self._clip_norm)
        if scale != 1.0:
            gradients = [gradient * scale for gradient in gradients]
        self._optimizer.update(gradients, lr=lr, step=step)
        return StepResult(
            loss=loss,
            gradient_norm=norm,
            tokens=sum(batch.tokens for batch in micro_batches),
            loss_tokens=sum(int((batch.labels != IGNORE).sum()) for batch in micro_batches),
            samples=sum(len(batch.sample_ids) for batch in micro_batches),
            gradient_s=computed - started,
            optimizer_s=time.perf_counter() - computed,
        )

    def _weighted_loss(self, plan: Any, weights_L: Tensor) -> Tensor:
        return ms.mint.sum(self._model.token_losses(plan) * weights_L)


def trainable_parameters(model: Qwen25VL) -> list[ms.Parameter]:
    """List the parameters that are not frozen, in the order of the parameter table."""
    return [parameter for parameter in model.named_parameters().values() if parameter.requires_grad]


def validation_loss(model: Qwen25VL, batches: Iterable[Batch]) -> float:
    """Give the mean loss of all labelled tokens of the batches; no gradient, no update."""
    total, count = 0.0, 0
    for batch in batches:
        losses: NDArray[np.float32] = model.token_losses(batch).asnumpy()
        total += float(losses.astype(np.float64).sum())
        count += int((batch.labels != IGNORE).sum())
    return total / max(1, count)


def _not_finite(what: str, value: float, step: int, batches: Sequence[Batch]) -> str:
    names = [name for batch in batches for name in batch.sample_ids]
    shown = "\n  ".join(names[:32]) + (f"\n  and {len(names) - 32} more" if len(names) > 32 else "")
    return (
        f"the {what} of step {step} is {value}; the step was not applied and nothing was saved after it.\n"
        f"samples of this step:\n  {shown}\n"
        "fix: look at these samples; or lower train.optimizer.lr or train.optimizer.clip_norm (0 is off), "
        "and run the same command again: it goes on from the last checkpoint"
    )
