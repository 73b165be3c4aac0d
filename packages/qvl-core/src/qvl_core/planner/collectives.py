"""Seconds of collectives and of what is handed on: rings over one link, near on a machine or far between two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qvl_core.planner.devices import DeviceFacts

GIGA = 1e9


@dataclass(frozen=True, kw_only=True)
class Links:
    """What of a rank is near: every tensor group, all replicas of a stage, the next stage of most ranks."""

    tensor: bool
    replicas: bool
    stages: bool


def links_of(each: int, *, tp: int, pp: int, dp: int) -> Links:
    """Give what is near with so many devices on each machine.

    Ranks count tensor fastest, then data, then pipeline (`qvl_core.parallel.mesh`), and fill one machine after another:
    groups of which no machine holds a whole number lie over two somewhere, and the slowest of them counts.
    """
    is_one = tp * pp * dp <= each
    return Links(
        tensor=is_one or each % tp == 0, replicas=is_one or each % (tp * dp) == 0, stages=is_one or tp * dp < each
    )


def all_reduce(size: float, ranks: int, device: DeviceFacts, *, near: bool) -> float:
    """Give the seconds of a ring all-reduce of so many bytes on each rank; 0 for one rank."""
    return 2 * gather(size, ranks, device, near=near)


def gather(size: float, ranks: int, device: DeviceFacts, *, near: bool) -> float:
    """Give the seconds of a ring all-gather, or reduce-scatter, whose whole result has so many bytes."""
    if ranks == 1 or size <= 0:
        return 0.0
    rate, latency = _link(device, near)
    return (ranks - 1) / ranks * size / rate + (ranks - 1) * latency


def handed(size: float, device: DeviceFacts, *, near: bool) -> float:
    """Give the seconds of sending so many bytes to one rank."""
    rate, latency = _link(device, near)
    return latency + size / rate


def _link(device: DeviceFacts, near: bool) -> tuple[float, float]:
    """Give bytes a second and seconds of latency."""
    if near:
        return device.near_gb_per_s * GIGA, device.near_latency_us * 1e-6
    return device.far_gb_per_s * GIGA, device.far_latency_us * 1e-6
