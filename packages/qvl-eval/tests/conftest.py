"""A tiny benchmark, a recipe and a folder with random weights, each test its own."""

from __future__ import annotations

import base64
import csv
import io
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from qvl_core.params import parameter_table
from qvl_core.specs import load_spec
from qvl_core.weights.hf_writer import write_hf_folder
from qvl_core.weights.tensor_io import tensor_from_array

# `sharded_folders` writes folders of any layout, `video_files` videos; tests of other packages have them.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "qvl-core" / "tests" / "weights"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "qvl-data" / "tests"))
# Test modules are imported by path, so their neighbour `running_server` has to be made findable.
sys.path.insert(0, str(Path(__file__).parent))

TINY = Path(__file__).resolve().parents[3] / "recipes" / "tiny"
CHECKPOINT = TINY / "checkpoint"
HEADER = ("index", "image", "question", "answer", "category")

RECIPE = """
schema = 1
task = "{task}"
[model]
config = "{checkpoint}"
dtype = "float32"
[weights]
source = "{weights}"
[data.image]
min_pixels = 12544
max_pixels = 12544
[generation]
max_new_tokens = 3
repetition_penalty = 1.0
[launch]
device = "cpu"
[output]
dir = "{output}"
"""
EVAL_SECTION = """
[eval]
benchmark = "digits_test"
data = "{data}"
rules = "exact"
batch = 2
"""


def picture_cell(level: int = 0) -> str:
    """Give the base64 of an 8 x 8 grey PNG."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(level).integers(0, 255, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def write_benchmark(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """Write rows of `HEADER` as a benchmark file."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([HEADER, *rows])


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    """Give a benchmark of five rows whose answers are 0 to 4."""
    path = tmp_path / "digits.tsv"
    write_benchmark(path, [(f"r{n}", picture_cell(n), "Which?", str(n), f"digit {n % 2}") for n in range(5)])
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Give an HF folder of the tiny model with random weights; the recipes' own settings start from the same files."""
    folder = tmp_path / "weights"
    write_weights(folder, seed=1)
    return folder


def write_weights(folder: Path, seed: int) -> None:
    """Write the tiny checkpoint's files with random tensors, large enough that answers depend on the question."""
    generator = np.random.default_rng(seed)
    tensors = []
    for row in parameter_table(load_spec(CHECKPOINT)):
        values = np.ones(row.shape, np.float32)
        if len(row.shape) > 1:
            values = generator.normal(0, 0.1, row.shape).astype(np.float32)
        tensors.append(tensor_from_array(row.name, values))
    write_hf_folder(tensors, CHECKPOINT, folder)


@pytest.fixture
def write_recipe(tmp_path: Path, benchmark: Path, weights: Path) -> Callable[..., Path]:
    def write(task: str = "eval") -> Path:
        path = tmp_path / f"{task}.toml"
        text = RECIPE + (EVAL_SECTION if task == "eval" else "")
        values = {"checkpoint": CHECKPOINT, "weights": weights, "output": tmp_path / "run", "data": benchmark}
        path.write_text(text.format(task=task, **values), encoding="utf-8")
        return path

    return write


@pytest.fixture
def save_benchmark(benchmark: Path) -> Callable[[Sequence[Sequence[str]]], None]:
    """Give the function that replaces the rows of `benchmark`."""
    return partial(write_benchmark, benchmark)


@pytest.fixture
def save_weights(weights: Path) -> Callable[[int], None]:
    """Give the function that replaces the tensors of `weights` with those of another seed."""

    def save(seed: int) -> None:
        shutil.rmtree(weights)
        write_weights(weights, seed)

    return save


@pytest.fixture
def picture() -> str:
    """Give a picture as it stands in a cell."""
    return picture_cell()
