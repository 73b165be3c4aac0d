"""The run that faults are tried on: the tiny model on sixteen pictures, alone and in two processes."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
EVERY = 3
RECIPE = f"""\
schema = 1
task = "sft"
[model]
name = "qwen2.5-vl-tiny"
[weights]
source = "{ROOT}/recipes/tiny/checkpoint"
init = "random"
[data]
sources = [{{ path = "train.json", format = "llava" }}]
sequence_length = 128
workers = 0
[data.image]
min_pixels = 3136
max_pixels = 3136
[train]
steps = 12
micro_batch = 2
global_batch = 4
[train.optimizer]
lr = 1e-3
[train.save]
every = {EVERY}
keep = 2
export_hf = false
[train.log]
tensorboard = false
[launch]
device = "cpu"
[output]
dir = "run"
"""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A layout to try a fault in: its name, its `--set` words, its ranks."""

    name: str
    settings: tuple[str, ...]
    ranks: int


SINGLE = Shape(name="single", settings=(), ranks=1)
REPLICAS = Shape(name="dp2-zero1", settings=("layout.dp=2", "layout.zero1=true"), ranks=2)
STAGES = Shape(name="pp2", settings=("layout.pp=2",), ranks=2)


def make_project(folder: Path) -> None:
    """Write recipe, records and pictures."""
    digits = ROOT / "recipes" / "tiny" / "digits"
    records = json.loads((digits / "train.json").read_text())[:16]
    (folder / "images").mkdir()
    for record in records:
        shutil.copy(digits / record["image"], folder / record["image"])
    (folder / "train.json").write_text(json.dumps(records))
    (folder / "recipe.toml").write_text(RECIPE)
