"""One thing that is not the same in two runs."""

from __future__ import annotations

from dataclasses import dataclass

from qvl_train.report.meanings import Meaning

GROUPS = ("recipe", "data", "weights", "versions", "environment")
ABSENT = "–"
_HASH_DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that is not the same; `ours` and `theirs` as text, `ABSENT` where a side does not have it."""

    group: str
    key: str
    ours: str
    theirs: str
    meaning: Meaning


def shortened(digest: str | None) -> str:
    """Give the beginning of a digest, with what stands before it."""
    if digest is None:
        return ABSENT
    *head, last = digest.split(":")
    return ":".join([*head, last[:_HASH_DIGITS]])
