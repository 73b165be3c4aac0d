"""What adapters add to a layer: products, operations to start, and numbers that are kept. Counted from `model.lora`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from qvl_core.lora_table import Lora, adapter_table
from qvl_core.params import Component
from qvl_core.specs.model_spec import ModelSpec

# Of one adapted linear, forward: two casts, two products, scale, sum; with dropout a mask is copied and multiplied too.
_OPERATIONS = 6
_OPERATIONS_OF_DROPOUT = 2


@dataclass(frozen=True, kw_only=True)
class AdaptedLayer:
    """The adapters of one layer, or of the merger: elements of their factors, and per row of input what they do."""

    elements: int
    operations: int
    kept: int

    @property
    def multiplications(self) -> int:
        """Count those of a row: each element of a factor takes part once."""
        return self.elements


NO_ADAPTERS = AdaptedLayer(elements=0, operations=0, kept=0)


@lru_cache(maxsize=64)
def adapted_layers(spec: ModelSpec, lora: Lora | None) -> Mapping[Component, AdaptedLayer]:
    """Give the adapters of a layer of each component that has some; all layers of a component are alike.

    `kept` are the numbers, in the model's dtype, that wait for the backward: the inner row, and with dropout mask and
    dropped input. The input itself is kept by the layer.
    """
    if lora is None:
        return {}
    found: dict[Component, AdaptedLayer] = {}
    drops = lora.dropout > 0
    for row in adapter_table(spec, lora):
        if row.layer not in (None, 0):
            continue
        before = found.get(row.component, NO_ADAPTERS)
        # The factors come in pairs, A [rank, in] first.
        is_first = ".lora_A." in row.name
        found[row.component] = AdaptedLayer(
            elements=before.elements + prod(row.shape),
            operations=before.operations + is_first * (_OPERATIONS + drops * _OPERATIONS_OF_DROPOUT),
            kept=before.kept + is_first * (lora.rank + drops * 2 * row.shape[1]),
        )
    return found
