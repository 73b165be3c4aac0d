"""The cases that a whole run on a device has checked (`cases.json`) and timed: no framework is needed to read them.

Tests hold both lists against the cases of the suite and of the contracts, and against what is timed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CASES_FILE = Path(__file__).with_name("cases.json")
# How the labels of contract cases begin; each of them is checked with values on the device too.
CONTRACT = "contract: "
# What is timed, kernel and label, in the order in which it runs.
TIMED = (
    ("attention", "packed, 28 and 4 heads of 128"),
    ("attention", "windows, 16 heads of 80"),
    ("rms_norm", "width 3584"),
    ("rope", "28 heads of 128"),
    ("swiglu", "width 18944"),
    ("cross_entropy", "vocabulary"),
    ("patch_embed", "1176 to 1280"),
    ("adamw_update", "tokens x 3584"),
)


@dataclass(frozen=True, kw_only=True)
class ListedCase:
    """A case by name, and what is checked of it beside its values."""

    kernel: str
    label: str
    gradients: bool
    jit: bool

    def checks(self) -> tuple[str, ...]:
        """Return the names of the checks that a whole run has of this case, those of other poses left out."""
        names = ["values", "values again", "inputs unchanged"]
        names += ["gradient, contiguous", "gradient again"] if self.gradients else []
        names += ["jit values"] if self.jit else []
        names += ["jit gradient"] if self.gradients and self.jit else []
        return tuple(names)


def listed_cases() -> tuple[ListedCase, ...]:
    """Return every case of a whole run, in the order in which it runs."""
    rows = json.loads(CASES_FILE.read_text(encoding="utf-8"))
    return tuple(ListedCase(kernel=kernel, label=label, gradients=g, jit=j) for kernel, label, g, j in rows)


def missing(
    checks: Sequence[Mapping[str, Any]], contracts: Sequence[Mapping[str, Any]], kernels: Sequence[str] = ()
) -> Iterator[str]:
    """Say which kernels, of all or of these, lack checks or contracts of a whole run, how many, and which is first."""
    cases = [case for case in listed_cases() if not kernels or case.kernel in kernels]
    had = {(x["kernel"], x["label"], x["check"]) for x in checks}
    yield from _lacking("check", [(x.kernel, x.label, name) for x in cases for name in x.checks()], had)
    called = {(x["kernel"], x["label"]) for x in contracts}
    yield from _lacking("contract", [(x.kernel, x.label) for x in cases if x.label.startswith(CONTRACT)], called)


def _lacking(what: str, wanted: Iterable[tuple[str, ...]], had: set[Any]) -> Iterator[str]:
    lacking = [key for key in wanted if key not in had]
    for kernel in dict.fromkeys(key[0] for key in lacking):
        mine = [key for key in lacking if key[0] == kernel]
        first = f"{', '.join(mine[0][1:])}"
        yield f"{len(mine)} {what}{'' if len(mine) == 1 else 's'} of {kernel} missing, the first {first}"
