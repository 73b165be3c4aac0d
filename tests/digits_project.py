"""A folder to start whole runs in: the tiny model, sixteen pictures of digits, a recipe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
_RECIPE = """\
schema = 1
task = "sft"
[model]
name = "qwen2.5-vl-tiny"
[weights]
source = "{root}/recipes/tiny/checkpoint"
init = "random"
[data]
sources = [{{ path = "train.json", format = "llava" }}]
sequence_length = 128
workers = {workers}
[data.image]
min_pixels = 3136
max_pixels = 3136
[train]
steps = {steps}
micro_batch = {micro_batch}
global_batch = 4
[train.optimizer]
lr = 1e-3
[train.save]
{save}
[train.log]
tensorboard = false
[launch]
device = "cpu"
[output]
dir = "run"
"""


def make_project(folder: Path, *, steps: int, save: str, micro_batch: int = 2, workers: int = 0) -> None:
    """Write recipe, records and pictures; `save` are the lines of [train.save]."""
    digits = ROOT / "recipes" / "tiny" / "digits"
    records = json.loads((digits / "train.json").read_text())[:16]
    (folder / "images").mkdir()
    for record in records:
        shutil.copy(digits / record["image"], folder / record["image"])
    (folder / "train.json").write_text(json.dumps(records))
    recipe = _RECIPE.format(root=ROOT, workers=workers, steps=steps, micro_batch=micro_batch, save=save)
    (folder / "recipe.toml").write_text(recipe)
