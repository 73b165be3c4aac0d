"""Fixtures of all tests: a checkpoint, its processor, recipes and data files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qvl_core.specs.model_spec import ModelSpec
from qvl_data.processor import Processor, load_processor

# Test modules are imported by path, so their neighbour `data_files` has to be made findable.
sys.path.insert(0, str(Path(__file__).parent))

from data_files import llava, make_spec, recipe_maker, save_image, write_checkpoint, write_records


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelSpec]:
    folder = tmp_path_factory.mktemp("checkpoint")
    return folder, make_spec(write_checkpoint(folder))


@pytest.fixture(scope="session")
def processor(checkpoint: tuple[Path, ModelSpec]) -> Processor:
    folder, spec = checkpoint
    return load_processor(folder, spec, min_pixels=3136, max_pixels=50176)


@pytest.fixture
def make_recipe(checkpoint: tuple[Path, ModelSpec], tmp_path: Path) -> Callable[..., Any]:
    """Give a function that makes what `prepare` and `batches` use of a recipe, from the real [data] section."""
    return recipe_maker(checkpoint, tmp_path)


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    """Ten records, six with one image, in the order image, image, text, ..."""
    records = []
    for number in range(10):
        if number % 3 == 2:
            records.append(llava(f"Question {number}?", f"Answer {number}."))
        else:
            save_image(tmp_path / f"{number}.png", 40 + 30 * number, 60 + 10 * number, seed=number)
            records.append(llava(f"<image>\nQuestion {number}?", f"Answer {number}.", f"{number}.png"))
    return write_records(tmp_path / "train.json", records)
