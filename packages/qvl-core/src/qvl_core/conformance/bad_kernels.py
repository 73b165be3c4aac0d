"""Kernels that are known to be wrong, to prove that the suite can fail: each has one fault that it has to name."""

from __future__ import annotations

from dataclasses import dataclass, replace

import mindspore as ms
from mindspore import Tensor, mint, nn, ops

from qvl_core.kernels.select import KernelTable


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A wrong table: which kernel is wrong, what with it, and the beginning of the check that must catch it.

    `cpu_only`: wrong through an operation of MindSpore that is known to be wrong on CPU, and may be right on a device.
    """

    kernel: str
    what: str
    caught_by: str
    table: KernelTable
    cpu_only: bool = False


def faults(table: KernelTable) -> tuple[Fault, ...]:
    """Return the table with one kernel broken, once for each fault."""
    return (
        Fault(
            kernel="rope", what="mint.split, whose gradient is silently wrong for a cotangent that is a view",
            caught_by="gradient", table=replace(table, rope=_rope_with_split), cpu_only=True,
        ),
        Fault(
            kernel="swiglu", what="a backward of our own that forgets one term",
            caught_by="gradient", table=replace(table, swiglu=_swiglu_with_wrong_backward),
        ),
        Fault(
            kernel="gelu", what="the tanh approximation", caught_by="values", table=replace(table, gelu=_gelu_tanh),
        ),
        Fault(
            kernel="cross_entropy", what="ignored labels that count",
            caught_by="values", table=replace(table, cross_entropy=_cross_entropy_counting_all),
        ),
        Fault(
            kernel="merge_tokens", what="a write into its own input",
            caught_by="inputs unchanged", table=replace(table, merge_tokens=_merge_in_place),
        ),
    )  # fmt: skip


def _rope_with_split(x_TNH: Tensor, cos_TH: Tensor, sin_TH: Tensor) -> Tensor:
    left, right = mint.split(x_TNH, x_TNH.shape[-1] // 2, -1)  # trap: on purpose
    return x_TNH * cos_TH.expand_dims(1) + mint.cat((-right, left), -1) * sin_TH.expand_dims(1)


class _WrongSwiglu(nn.Cell):
    def construct(self, gate: Tensor, up: Tensor) -> Tensor:
        return ops.silu(gate) * up

    def bprop(self, gate: Tensor, up: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        return dout * up * mint.sigmoid(gate), dout * ops.silu(gate)


def _swiglu_with_wrong_backward(gate: Tensor, up: Tensor) -> Tensor:
    return _WrongSwiglu()(gate, up)


def _gelu_tanh(x: Tensor) -> Tensor:
    return ops.gelu(x, "tanh")


def _cross_entropy_counting_all(logits_TV: Tensor, labels_T: Tensor) -> Tensor:
    column_T1 = ops.maximum(labels_T, 0).expand_dims(1)
    return -ops.gather_elements(ops.log_softmax(logits_TV.astype(ms.float32), -1), 1, column_T1).squeeze(1)


def _merge_in_place(text_TD: Tensor, vision_UD: Tensor, index_T: Tensor) -> Tensor:
    merged = ops.gather(mint.cat((text_TD, vision_UD), 0), index_T, 0)
    text_TD[0] = 0.0
    return merged
