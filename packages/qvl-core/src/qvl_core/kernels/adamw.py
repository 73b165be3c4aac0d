"""One AdamW update in place, exact in the sense of Loshchilov and Hutter (arXiv 1711.05101), algorithm 2."""

from __future__ import annotations

import math
from functools import lru_cache

import mindspore as ms
from mindspore import Parameter, Tensor, ops

from qvl_core.kernels.domain import DOMAINS

_ADAM = ops.Adam()


def adamw_update_reference(
    parameter: Parameter,
    moment1: Parameter,
    moment2: Parameter,
    gradient: Tensor,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
) -> None:
    """Change parameter and both moments by update number `step` (from 1). All fp32, gradient of the parameter's shape.

    The decay comes first and on its own (p * (1 - lr * weight_decay)), then Adam with bias correction. Runs outside
    jit. `mint.optim.AdamW` has no CPU kernel and `nn.AdamWeightDecay` no bias correction, hence this.
    """
    if weight_decay != 0.0:
        # In place: compiled code does not see set_data. (copy_ is faster, but keeps 670 bytes of every call.)
        ops.assign(parameter, parameter * _scalar(1.0 - lr * weight_decay))
    power1, power2 = beta1**step, beta2**step
    # The operation divides by sqrt(moment2) + eps with the bias correction pulled into the rate; AdamW's eps stands
    # beside the corrected root, which is the same as this scaled eps beside the plain one.
    scaled_eps = eps * math.sqrt(1.0 - power2)
    numbers = [_scalar(number) for number in (power1, power2, lr, beta1, beta2, scaled_eps)]
    _ADAM(parameter, moment1, moment2, *numbers, gradient)


@lru_cache(maxsize=32)
def _scalar(number: float) -> Tensor:
    # A plain float would be kept by MindSpore 2.10 for the life of the process, some kilobytes for each new value. All
    # parameters of a step share their few numbers: making them anew for each was half of a small model's update.
    return Tensor(number, ms.float32)


def adamw_update_ascend(
    parameter: Parameter,
    moment1: Parameter,
    moment2: Parameter,
    gradient: Tensor,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
) -> None:
    """Do the same with the same fused Adam operation, which the device has too. Not verified on a device.

    Raises TypeError outside of the operation's domain (anything but fp32): there is no other form to run.
    """
    if parameter.size == 0:
        return
    dtypes = [x.dtype for x in (parameter, moment1, moment2, gradient)]
    refusal = DOMAINS["adamw_update"].refuse(dtypes, (parameter.size,))
    if refusal:
        raise TypeError(refusal.partition(";")[0])
    adamw_update_reference(
        parameter, moment1, moment2, gradient,
        lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay, step=step,
    )  # fmt: skip
