"""Adapters in a model whose cells may be cut for a tensor rank: what `lora_table` says, put into the model.

No further message: where a weight is cut by rows of its output, the gradient of the input that the adapter hands back
is a summand like the layer's own, and `CopyToRanks` before the layer adds both. Where it is cut by columns, the outputs
of layer and adapter go into one `SumOverRanks`, for B(sum of A x) is the sum of B(A x). The factor that is not cut sees
a summand of its gradient either way; they are added once a step (`partial_gradient` in the table).
"""

from __future__ import annotations

from mindspore import Tensor

from qvl_core import kernels
from qvl_core.lora_table import Lora, adapter_table
from qvl_core.model import Qwen25VL
from qvl_core.model.layers import Linear
from qvl_core.model.lora import AdapterDropout, LoraLinear
from qvl_core.parallel.tensor_cells import RowLinear, cell_at, put_cell
from qvl_core.parallel.world import Group
from qvl_core.params import Parameter, parameter_table


class LoraRowLinear(LoraLinear):
    """x_TI -> y_TO with this rank's columns of the weight and of A; the bias is added once."""

    def __init__(
        self, layer: RowLinear, lora: Lora, dropout: AdapterDropout, group: Group, *, name: str, width: int
    ) -> None:
        first = layer.weight.shape[1] * group.index
        super().__init__(layer, lora, dropout, name=name, first=first, width=width)
        self._sum = layer.sum_over_ranks

    def construct(self, x: Tensor) -> Tensor:
        y = self._sum(kernels.linear(x, self.weight) + self.update(x))
        return y if self.bias is None else y + self.bias


def insert_adapters(model: Qwen25VL, lora: Lora, group: Group, *, seed: int) -> None:
    """Put adapters of zeros into a model that `cut_cells` has cut; only they train from then on.

    `seed` is that of the dropout masks.
    """
    dropout = AdapterDropout(lora.dropout, seed)
    held = model.named_parameters()
    for row in parameter_table(model.spec):
        if row.name in held and lora.adapts(row):
            put_cell(model, row.name, _adapted(cell_at(model, row.name), row, lora, dropout, group))
    model.dropout = dropout
    model.table = (*model.table, *adapter_table(model.spec, lora))
    model.name_parameters()
    model.freeze(())


def _adapted(found: object, row: Parameter, lora: Lora, dropout: AdapterDropout, group: Group) -> LoraLinear:
    if isinstance(found, RowLinear):
        return LoraRowLinear(found, lora, dropout, group, name=row.name, width=row.shape[1])
    assert isinstance(found, Linear), f"{row.name} is to be adapted but its cell is a {type(found).__name__}"
    return LoraLinear(found, lora, dropout, name=row.name)
