"""The run that faults are tried on: where it is started, in which layouts, how often it saves."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from digits_project import ROOT as ROOT
from digits_project import make_project

EVERY = 3


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A layout to try a fault in: its name, its `--set` words, its ranks."""

    name: str
    settings: tuple[str, ...]
    ranks: int


SINGLE = Shape(name="single", settings=(), ranks=1)
REPLICAS = Shape(name="dp2-zero1", settings=("layout.dp=2", "layout.zero1=true"), ranks=2)
STAGES = Shape(name="pp2", settings=("layout.pp=2",), ranks=2)


def make_faults_project(folder: Path) -> None:
    """Write recipe, records and pictures."""
    make_project(folder, steps=12, save=f"every = {EVERY}\nkeep = 2\nexport_hf = false")
