"""Memory of this process: resident on the host, and of the device where there is one."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from qvl_core.device import current_device

GIB = 1024**3
_PAGE = os.sysconf("SC_PAGE_SIZE")


def host_memory_gib() -> float:
    """Give what of the process is resident now, GiB."""
    # Linux: the second number of statm counts resident pages.
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE / GIB


def host_peak_gib() -> float:
    """Give the most that was ever resident, GiB."""
    # Linux counts in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def device_peak_gib() -> float | None:
    """Give the most that tensors have taken of the device's memory, GiB; None on CPU. Not verified on a device."""
    if current_device() != "ascend":
        return None
    import mindspore as ms

    return float(ms.runtime.max_memory_allocated()) / GIB
