"""Rules between [env] and the other sections of a recipe."""

from __future__ import annotations

import re
from collections.abc import Iterator

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


def free_beside(first: int, last: int) -> int:
    """Give a port for the processes to meet on that is none of a range of HCCL's."""
    usual = 29501
    if not first <= usual <= last:
        return usual
    return last + 1 if last < 65535 else first - 1


def _check_ports_apart(draft: Draft) -> Iterator[Problem]:
    """Refuse a meeting point whose port is one of HCCL's: one of the two could not listen."""
    keys = ("launch.device", "launch.master", "env.HCCL_IF_BASE_PORT", "env.HCCL_HOST_SOCKET_PORT_RANGE")
    taken = draft.take(*keys)
    if taken is None or taken[0] != "ascend":
        return
    _, master, base, ranges = taken
    text = master.rpartition(":")[2]
    port = int(text) if re.fullmatch(r"[0-9]{1,5}", text) else 0
    for first, last in hccl_ports(base, ranges):
        if first <= port <= last:
            key = keys[3] if ranges else keys[2] if base is not None else keys[1]
            message = f'leaves HCCL the ports {first} to {last}; launch.master = "{master[:80]}" is one of them'
            if key == keys[1]:
                message = f"has port {port}, one of HCCL's: {first} to {last}"
            host = master.rpartition(":")[0][:80]
            fix = f'master = "{host}:{free_beside(first, last)}"'
            yield error(key, message, f"{fix} under [launch], or other ports for HCCL")


def _check_tokenizer_threads(draft: Draft) -> Iterator[Problem]:
    """Warn of tokenizer threads beside data workers: qvl sets false then, and the recipe's value wins."""
    taken = draft.take("env.TOKENIZERS_PARALLELISM", "data.workers")
    if taken and str(taken[0]).lower() == "true" and taken[1]:
        message = (
            f"is true, and data.workers is {taken[1]}: threads of the tokenizer in each of them fight for the cores"
        )
        yield warning("env.TOKENIZERS_PARALLELISM", message, "leave it out: qvl sets false where data workers run")
