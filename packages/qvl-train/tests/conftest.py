"""A small training project in a temporary folder: the tiny checkpoint's files, 24 pictures, a recipe."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TINY = ROOT / "recipes" / "tiny"

# `thread_worlds` and `run_folders` lie beside this file. Tests of other packages have `devtools`, which drives a
# browser (qvl-data), `sharded_folders`, which writes folders of any layout, and `power_cut`, a disk that loses power.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(ROOT / "packages" / "qvl-data" / "tests"))
sys.path.insert(0, str(ROOT / "packages" / "qvl-core" / "tests"))
sys.path.insert(0, str(ROOT / "packages" / "qvl-core" / "tests" / "weights"))

RECIPE = """\
schema = 1
task = "sft"

[model]
name = "qwen2.5-vl-tiny"
dtype = "float32"

[weights]
source = "checkpoint"
init = "random"

[data]
sources = [{ path = "train.json", format = "llava", media_root = "." }]
sequence_length = 128
workers = 0
cache_dir = "cache"

[data.image]
min_pixels = 3136
max_pixels = 3136

[train]
steps = 6
micro_batch = 2
global_batch = 4

[train.optimizer]
lr = 1e-3

[train.save]
every = 2
keep = 3

[train.log]
tensorboard = false

[launch]
device = "cpu"

[output]
dir = "run"
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder, made the working directory."""
    shutil.copytree(TINY / "checkpoint", tmp_path / "checkpoint")
    records = json.loads((TINY / "digits" / "train.json").read_text())[:24]
    (tmp_path / "images").mkdir()
    for record in records:
        shutil.copy(TINY / "digits" / record["image"], tmp_path / record["image"])
    (tmp_path / "train.json").write_text(json.dumps(records))
    (tmp_path / "recipe.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def snapshot(project: Path) -> Callable[[], dict[str, bytes]]:
    """Give a function that lists every file of the project with its content, but for what a check of data keeps."""

    def take() -> dict[str, bytes]:
        files = [
            path for path in project.rglob("*") if path.is_file() and path.relative_to(project).parts[0] != "cache"
        ]
        return {str(path.relative_to(project)): path.read_bytes() for path in files}

    return take
