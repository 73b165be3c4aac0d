"""Which rank a process is: what mpiexec or msrun put into its environment."""

from __future__ import annotations

from collections.abc import Mapping

# Open MPI (4 and 5), msrun, any other launcher that speaks PMIx, PMI.
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "RANK_ID", "PMIX_RANK", "PMI_RANK")


def rank_from(environment: Mapping[str, str]) -> int | None:
    """Give the rank; None in a process that no launcher started."""
    for name in RANK_VARIABLES:
        value = environment.get(name, "")
        if value.isascii() and value.isdecimal():
            return int(value)
    return None


def local_place(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """Give (number on this machine, ranks on this machine) where mpiexec says so."""
    words = [environment.get(f"OMPI_COMM_WORLD_LOCAL_{name}", "") for name in ("RANK", "SIZE")]
    if not all(word.isascii() and word.isdecimal() for word in words):
        return None
    return int(words[0]), int(words[1])
