"""Seconds of collectives and of what is handed on: rings over one link, near on a machine or far between two."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qvl_core.planner.devices import DeviceFacts
    from qvl_core.planner.job import Job

GIGA = 1e9


def is_near(job: Job, tp: int, dp: int) -> bool:
    """Tell whether the next stage's rank is on the same machine."""
    return tp * dp < job.device.devices_per_node


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
