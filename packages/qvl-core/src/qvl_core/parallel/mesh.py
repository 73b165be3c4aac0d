"""The mesh: which rank is which tensor slice of which stage of which replica. Pure arithmetic.

Ranks count the tensor axis fastest, then data, then pipeline, as Megatron-LM does (arXiv 2104.04473, section 3):
the ranks of a tensor group, which talk most, are neighbours and share a machine; stages, which talk least, may not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from qvl_core.layout import Layout

Axis = Literal["pp", "dp", "tp"]


@dataclass(frozen=True, kw_only=True)
class Coordinate:
    """A rank's place: pipeline stage, replica, tensor slice, each counted from 0."""

    pp: int
    dp: int
    tp: int


def coordinate_of(rank: int, layout: Layout) -> Coordinate:
    """Give the place of a rank. Raises ValueError for a rank outside [0, world size)."""
    if not 0 <= rank < layout.world_size:
        raise ValueError(f"rank {rank} is outside 0..{layout.world_size - 1}")
    rest, tp = divmod(rank, layout.tp)
    pp, dp = divmod(rest, layout.dp)
    return Coordinate(pp=pp, dp=dp, tp=tp)


def rank_of(place: Coordinate, layout: Layout) -> int:
    """Give the rank at a place; the inverse of `coordinate_of`. Raises ValueError outside the mesh."""
    for axis, size in (("pp", layout.pp), ("dp", layout.dp), ("tp", layout.tp)):
        if not 0 <= getattr(place, axis) < size:
            raise ValueError(f"{axis} {getattr(place, axis)} is outside 0..{size - 1}")
    return (place.pp * layout.dp + place.dp) * layout.tp + place.tp


def group_of(rank: int, axis: Axis, layout: Layout) -> tuple[int, ...]:
    """List the ranks that differ from this one along `axis` only, itself included, in order along the axis."""
    place = coordinate_of(rank, layout)
    size: int = getattr(layout, axis)
    return tuple(rank_of(replace(place, **{axis: index}), layout) for index in range(size))
