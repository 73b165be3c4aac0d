"""Tensor parallelism: the cells that stand in for those of the model where the parameter table cuts a weight.

Between two sums over the tensor group every rank computes with its own heads and FFN columns: a norm's output goes in
(`CopyToRanks`), a row-cut linear map comes out (`SumOverRanks`). Megatron-LM (arXiv 1909.08053), section 3: f and g.
What is not cut is computed by every rank alike, so its gradients agree without any message.

Legend: T tokens, D model width, L rows with a label, V vocabulary, W this rank's slice of it.
"""

from __future__ import annotations

from typing import cast

import mindspore as ms
from mindspore import Parameter, Tensor, mint, nn, ops

from qvl_core import kernels
from qvl_core.kernels.cross_entropy import IGNORE_LABEL
from qvl_core.model import Qwen25VL
from qvl_core.model.layers import Embedding, Linear, RMSNorm, empty_parameter
from qvl_core.parallel.world import Group
from qvl_core.params import Parameter as TableRow
from qvl_core.params import parameter_table


class CopyToRanks(nn.Cell):
    """The identity; its gradient is the sum of all ranks' gradients."""

    def __init__(self, group: Group) -> None:
        super().__init__()
        self._group = group

    def construct(self, x: Tensor) -> Tensor:
        return x

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        """Add what every rank's part of the layer says about their common input."""
        return (self._group.sum(dout),)


class SumOverRanks(nn.Cell):
    """The sum of all ranks' tensors; its gradient is the same for each of them."""

    def __init__(self, group: Group) -> None:
        super().__init__()
        self._group = group

    def construct(self, x: Tensor) -> Tensor:
        return self._group.sum(x)

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        """Hand the gradient on."""
        return (dout,)


class MaximumOverRanks(nn.Cell):
    """The element-wise maximum, as a constant: no gradient."""

    def __init__(self, group: Group) -> None:
        super().__init__()
        self._group = group

    def construct(self, x: Tensor) -> Tensor:
        return self._group.maximum(x)

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        """Give zeros."""
        return (ops.zeros_like(x),)


class NormBeforeCut(RMSNorm):
    """A norm whose output every rank feeds into its own columns. All norms of the family are of this kind."""

    def __init__(self, norm: RMSNorm, group: Group) -> None:
        super().__init__(norm.weight.shape[0], norm.eps, dtype_name(norm.weight))
        self._copy = CopyToRanks(group)

    def construct(self, x_TD: Tensor) -> Tensor:
        return self._copy(super().construct(x_TD))


class RowLinear(nn.Cell):
    """x_TI -> y_TO with this rank's columns of the weight; the bias, which every rank has, is added once."""

    def __init__(self, width_in: int, width_out: int, *, bias: bool, dtype: str, group: Group) -> None:
        super().__init__()
        self.weight = empty_parameter((width_out, width_in), dtype)
        self.bias = empty_parameter((width_out,), dtype) if bias else None
        self.sum_over_ranks = SumOverRanks(group)

    def construct(self, x: Tensor) -> Tensor:
        y = self.sum_over_ranks(kernels.linear(x, self.weight))
        return y if self.bias is None else y + self.bias


class VocabEmbedding(nn.Cell):
    """ids_T -> x_TD with this rank's rows of the table: zeros for the ids of others, then the sum."""

    def __init__(self, rows: int, width: int, dtype: str, group: Group) -> None:
        super().__init__()
        self.weight = empty_parameter((rows, width), dtype)
        self._first = group.index * rows
        self._sum = SumOverRanks(group)

    def construct(self, ids_T: Tensor) -> Tensor:
        row_T, is_ours_T = local_rows(ids_T, self._first, self.weight.shape[0])
        found_TD = kernels.embedding(self.weight, row_T)
        return self._sum(found_TD * is_ours_T.astype(found_TD.dtype).expand_dims(1))


class VocabLoss(nn.Cell):
    """logits_LW, labels_L -> losses_L: cross-entropy over a cut vocabulary; three numbers a row travel, no logits.

    The largest logit, the sum of exponentials and the label's logit. Megatron-LM (arXiv 1909.08053), section 3.
    """

    def __init__(self, group: Group) -> None:
        super().__init__()
        self._group_index = group.index
        self._maximum = MaximumOverRanks(group)
        self._sum = SumOverRanks(group)

    def construct(self, logits_LW: Tensor, labels_L: Tensor) -> Tensor:
        # fp32 whatever the logits are, as in the kernel that this stands in for.
        logits = logits_LW if logits_LW.dtype == ms.float32 else logits_LW.astype(ms.float32)
        largest_L = self._maximum(ops.stop_gradient(mint.amax(logits, -1)))
        shifted_LW = logits - largest_L.expand_dims(1)
        row_L, is_ours_L = local_rows(labels_L, self._group_index * logits.shape[1], logits.shape[1])
        label_L = ops.gather_elements(shifted_LW, 1, row_L.expand_dims(1)).squeeze(1) * is_ours_L.astype(ms.float32)
        sums_2L = self._sum(ops.stack((mint.sum(mint.exp(shifted_LW), -1), label_L)))
        return mint.where(labels_L != IGNORE_LABEL, mint.log(sums_2L[0]) - sums_2L[1], 0.0)


def local_rows(ids_T: Tensor, first: int, rows: int) -> tuple[Tensor, Tensor]:
    """Give the row of each id in the slice `first` to `first + rows`, and whether it lies there; row 0 elsewhere."""
    row_T = ids_T - first
    is_ours_T = ops.logical_and(row_T >= 0, row_T < rows)
    return row_T * is_ours_T.astype(row_T.dtype), is_ours_T


def cut_cells(model: Qwen25VL, group: Group) -> None:
    """Put the cells of a tensor rank in place of those of the model, as the shard rules of the table say.

    The new weights are zero. A group of one changes nothing.
    """
    if group.size == 1:
        return
    held = model.named_parameters()
    for row in parameter_table(model.spec):
        if row.name in held and row.name.endswith(".weight"):
            _replace(model, row, group)
    if model.part.head:
        model.token_loss = VocabLoss(group)
    model.name_parameters()


def cell_at(model: Qwen25VL, weight: str) -> nn.Cell:
    """Give the cell that holds a weight of this name."""
    cell: nn.Cell = model
    for key in weight.removesuffix(".weight").split("."):
        cell = cast(nn.Cell, cell._cells[key])
    return cell


def put_cell(model: Qwen25VL, weight: str, cell: nn.Cell) -> None:
    """Put a cell in the place of the one that holds a weight of this name; names are given anew by the caller."""
    path, _, name = weight.removesuffix(".weight").rpartition(".")
    parent = cell_at(model, f"{path}.weight") if path else model
    if name.isdigit():
        parent[int(name)] = cell
    else:
        setattr(parent, name, cell)


def _replace(model: Qwen25VL, row: TableRow, group: Group) -> None:
    cut = _cut(cell_at(model, row.name), row, group)
    if cut is not None:
        put_cell(model, row.name, cut)


def _cut(found: nn.Cell, row: TableRow, group: Group) -> nn.Cell | None:
    """Give the cell that takes the place of `found`, None where it stays."""
    if isinstance(found, RMSNorm):
        return NormBeforeCut(found, group)
    if row.shard == "replicate":
        return None
    dtype, (rows, columns) = dtype_name(found.weight), row.local_shape(group.size)
    if isinstance(found, Embedding):
        return VocabEmbedding(rows, columns, dtype, group)
    assert isinstance(found, Linear), f"{row.name} is cut ({row.shard}) but its cell is a {type(found).__name__}"
    if row.shard == "row":
        return RowLinear(columns, rows, bias=found.bias is not None, dtype=dtype, group=group)
    return Linear(columns, rows, bias=found.bias is not None, dtype=dtype)


def dtype_name(parameter: Parameter) -> str:
    """Give the name of a parameter's dtype: float32, float16 or bfloat16."""
    return str(parameter.dtype).lower()
