"""The adapter table: which low-rank factors a model gets, their shapes, where they live and how they are cut.

LoRA (arXiv 2106.09685), section 4.1: a linear layer's y = W x becomes W x + (alpha / rank) B A x, with A [rank, in] and
B [out, rank]; W is frozen. The rows follow from those of the base weights (`params`): the factor on the side that the
base is cut on is cut like it, the other one is whole on every tensor rank. There each rank computes a summand of the
whole factor's gradient only: with its own columns of B, or its own part of A x.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from qvl_core.layout import Layout
from qvl_core.params import Component, Parameter, parameter_table
from qvl_core.specs.model_spec import ModelSpec

LoraTarget = Literal[
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv", "proj", "mlp.0", "mlp.2"
]  # fmt: skip

# The linear layers of each component by the end of their names, in the order of the forward pass.
TARGETS: Mapping[Component, tuple[LoraTarget, ...]] = {
    "vision": ("qkv", "proj", "gate_proj", "up_proj", "down_proj"),
    "merger": ("mlp.0", "mlp.2"),
    "text": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}
COMPONENTS: tuple[Component, ...] = get_args(Component)

_WEIGHT = ".weight"
_FACTOR_A, _FACTOR_B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Which linear layers have adapters, and what these compute. The recipe's section has the same fields."""

    rank: int
    alpha: float
    dropout: float
    components: tuple[Component, ...]
    targets: tuple[LoraTarget, ...]

    @property
    def scale(self) -> float:
        """Factor on B A x."""
        return self.alpha / self.rank

    def adapts(self, weight: Parameter) -> bool:
        """Tell whether a row of the parameter table is the weight of a layer with an adapter."""
        if weight.component not in self.components or not weight.name.endswith(_WEIGHT):
            return False
        # Outside the layers lie patch embedding, token embedding and head, none of which is a target.
        if weight.layer is None and weight.component != "merger":
            return False
        module = weight.name.removesuffix(_WEIGHT)
        return any(module.endswith(f".{target}") for target in self.targets if target in TARGETS[weight.component])


def adapter_table(spec: ModelSpec, lora: Lora, layout: Layout | None = None) -> tuple[Parameter, ...]:
    """List the factors, A before B, in the order of their layers; without a layout, all of them on one stage.

    Named like the layer's weight, with `lora_A.weight` or `lora_B.weight` in the place of `weight`.
    """
    bases = (row for row in parameter_table(spec, layout) if lora.adapts(row))
    return tuple(factor for base in bases for factor in _factors(base, lora.rank))


def weight_table(spec: ModelSpec, lora: Lora | None = None, layout: Layout | None = None) -> tuple[Parameter, ...]:
    """List what trains and is saved: the adapters' factors, or the whole model where there are no adapters."""
    return parameter_table(spec, layout) if lora is None else adapter_table(spec, lora, layout)


def base_of(factor: str) -> str:
    """Give the name of the weight that a factor belongs to."""
    for end in (_FACTOR_A, _FACTOR_B):
        if factor.endswith(end):
            return factor.removesuffix(end) + _WEIGHT
    raise ValueError(f"{factor} is not the name of an adapter's factor")


def factor_names(weight: str) -> tuple[str, str]:
    """Give the names of A and B of a weight."""
    module = weight.removesuffix(_WEIGHT)
    return module + _FACTOR_A, module + _FACTOR_B


def is_factor(name: str) -> bool:
    """Tell whether a name is one of an adapter's factor."""
    return name.endswith((_FACTOR_A, _FACTOR_B))


def _factors(base: Parameter, rank: int) -> Iterator[Parameter]:
    (name_a, name_b), (out, width) = factor_names(base.name), base.shape
    cuts_inputs = base.shard == "row"
    yield replace(
        base,
        name=name_a,
        shape=(rank, width),
        shard="row" if cuts_inputs else "replicate",
        partial_gradient=not cuts_inputs,
    )
    yield replace(
        base,
        name=name_b,
        shape=(out, rank),
        shard="replicate" if cuts_inputs else base.shard,
        partial_gradient=cuts_inputs,
    )
