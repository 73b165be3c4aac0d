"""Elements of the model on a rank: what a stage holds, what of it trains, and a replica's slice of that. Exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from types import MappingProxyType

from qvl_core.lora_table import Lora, adapter_table
from qvl_core.params import Component, Parameter, parameter_table
from qvl_core.planner.stage_shape import StageShape
from qvl_core.specs.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Held:
    """Elements on a rank of one part of the model: of all its tensors, of the trained ones, and of a slice of these."""

    elements: int
    trained: int
    sliced: int

    def __add__(self, other: Held) -> Held:
        return Held(
            elements=self.elements + other.elements,
            trained=self.trained + other.trained,
            sliced=self.sliced + other.sliced,
        )


def held_parts(spec: ModelSpec, lora: Lora | None, alive: frozenset[Component], tp: int, dp: int) -> Mapping[str, Held]:
    """Count each kind of part once; all layers of a component are alike."""
    found: dict[str, Held] = {}
    nothing = Held(elements=0, trained=0, sliced=0)
    for name, sizes in _elements(spec, None, None, tp).items():
        found[name] = replace(nothing, elements=sum(sizes))
    for name, sizes in _elements(spec, lora, alive, tp).items():
        sliced = sum(slice_length(size, dp) for size in sizes)
        found[name] += Held(elements=0, trained=sum(sizes), sliced=sliced)
    return MappingProxyType(found)


@lru_cache(maxsize=64)
def _elements(
    spec: ModelSpec, lora: Lora | None, alive: frozenset[Component] | None, tp: int
) -> Mapping[str, tuple[int, ...]]:
    """List the elements on a rank of each tensor of a part: of the trained ones, or of all where none is `alive`."""
    if lora is not None:
        rows = adapter_table(spec, lora)
    else:
        rows = tuple(row for row in parameter_table(spec) if alive is None or row.component in alive)
    found: dict[str, tuple[int, ...]] = {}
    for row in rows:
        if row.layer in (None, 0):
            found[_part(row)] = (*found.get(_part(row), ()), prod(row.local_shape(tp)))
    return MappingProxyType(found)


def held_of(parts: Mapping[str, Held], shape: StageShape) -> Held:
    """Give the elements of a stage, with what `held_parts` gives."""
    elements = trained = sliced = 0
    for count, part in (
        (shape.vision, "vision"),
        (shape.text, "text"),
        (shape.patch_embed, "patch_embed"),
        (shape.merger, "merger"),
        (shape.embeds, "embedding"),
        (shape.head, "norm"),
        (shape.head and (not shape.embeds or "head" in parts), "head" if "head" in parts else "embedding"),
    ):
        if count:
            found = parts[part]
            elements += count * found.elements
            trained += count * found.trained
            sliced += count * found.sliced
    return Held(elements=elements, trained=trained, sliced=sliced)


def slice_length(size: int, replicas: int) -> int:
    """Give the elements of a replica's slice of a tensor, rounded up as `qvl_train.slices` does."""
    return -(-size // replicas)


def _part(row: Parameter) -> str:
    if row.layer is not None:
        return row.component
    for start, name in (
        ("visual.patch_embed.", "patch_embed"),
        ("visual.merger.", "merger"),
        ("model.embed_tokens.", "embedding"),
        ("model.norm.", "norm"),
    ):
        if row.name.startswith(start):
            return name
    return "head"
