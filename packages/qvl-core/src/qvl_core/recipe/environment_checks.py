"""Rules between [env] and the other sections of a recipe."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from qvl_core.errors import Problem
from qvl_core.recipe.draft import Draft
from qvl_core.recipe.problems import error, warning

# CANN's documentation of HCCL_IF_BASE_PORT: its default, and how many ports are taken from it on.
HCCL_BASE, HCCL_PORTS = 60000, 16


def check_environment(draft: Draft) -> Iterator[Problem]:
    """Run every check between a variable and another key."""
    yield from _check_ports_apart(draft)
    yield from _check_tokenizer_threads(draft)


def hccl_ports(base: int | None, ranges: str | None) -> list[tuple[int, int]]:
    """Give the first and last port of each range that HCCL may listen on; [] where it takes any free one."""
    if ranges:
        found = re.findall(r"(\d{1,5})(?:-(\d{1,5}))?", ranges) if ranges != "auto" else []
        return [(int(first), int(last or first)) for first, last in found]
    first = HCCL_BASE if base is None else base
    return [(first, first + HCCL_PORTS - 1)]


def free_beside(ranges: Sequence[tuple[int, int]]) -> int | None:
    """Give a port for the processes to meet on that is none of HCCL's; None where HCCL may have all of them."""
    for port in (29501, *(last + 1 for _, last in ranges), *(first - 1 for first, _ in ranges)):
        if 1024 <= port <= 65535 and not any(first <= port <= last for first, last in ranges):
            return port
    return None


def is_too_few(ranges: Sequence[tuple[int, int]], ranks: int | None) -> bool:
    """Tell whether HCCL's ports, less one that another process has, are too few for the ranks of a machine."""
    return len({port for first, last in ranges for port in range(first, last + 1)}) - 1 < (ranks or 1)


def _check_ports_apart(draft: Draft) -> Iterator[Problem]:
    """Tell of a meeting point whose port is one of HCCL's.

    From HCCL_IF_BASE_PORT on the ports are fixed: one of the two could not listen. Of stated ranges HCCL takes what is
    free, and only fails where nothing is left.
    """
    keys = ("launch.device", "launch.master", "env.HCCL_IF_BASE_PORT", "env.HCCL_HOST_SOCKET_PORT_RANGE")
    taken = draft.take(*keys, "launch.devices_per_node")
    if taken is None or taken[0] != "ascend":
        return
    _, master, base, stated, ranks = taken
    host, _, text = master.rpartition(":")
    port = int(text) if re.fullmatch(r"[0-9]{1,5}", text) else 0
    ranges = hccl_ports(base, stated)
    for first, last in ranges:
        if first <= port <= last:
            key = keys[3] if stated else keys[2] if base is not None else keys[1]
            message = f'leaves HCCL the ports {first} to {last}; launch.master = "{master[:80]}" is one of them'
            if key == keys[1]:
                message = f"has port {port}, one of HCCL's: {first} to {last}"
            free = free_beside(ranges)
            fix = "other ports for HCCL"
            if free is not None:
                fix = f'master = "{host[:80]}:{free}" under [launch], or {fix}'
            tell = warning if stated and not is_too_few(ranges, ranks) else error
            yield tell(key, message, fix)


def _check_tokenizer_threads(draft: Draft) -> Iterator[Problem]:
    """Warn of tokenizer threads beside data workers: qvl sets false then, and the recipe's value wins."""
    taken = draft.take("env.TOKENIZERS_PARALLELISM", "data.workers")
    if taken and str(taken[0]).lower() == "true" and taken[1]:
        message = (
            f"is true, and data.workers is {taken[1]}: threads of the tokenizer in each of them fight for the cores"
        )
        yield warning("env.TOKENIZERS_PARALLELISM", message, "leave it out: qvl sets false where data workers run")
