"""The fingerprint of weights: the same for the same tensors however they lie in files, another for other values."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from qvl_core.params import parameter_table
from qvl_core.specs import load_spec
from qvl_core.specs.load import shipped_config_path
from qvl_core.weights.fingerprint import fingerprint
from qvl_core.weights.hf_folder import open_hf_folder
from qvl_core.weights.hf_writer import write_hf_folder
from qvl_core.weights.tensor_io import tensor_from_array

TINY = "qwen2.5-vl-tiny"


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {row.name: generator.standard_normal(row.shape, np.float32) for row in parameter_table(load_spec(TINY))}


def write(tmp_path: Path, name: str, arrays: dict[str, np.ndarray], **options: object) -> str:
    side = tmp_path / "side"
    side.mkdir(exist_ok=True)
    shutil.copy(shipped_config_path(TINY), side / "config.json")
    tensors = [tensor_from_array(key, array) for key, array in arrays.items()]
    write_hf_folder(tensors, side, tmp_path / name, **options)  # type: ignore[arg-type]
    return fingerprint(open_hf_folder(tmp_path / name))


def test_files_and_spelling_do_not_enter_it(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    one = write(tmp_path, "one", arrays)
    assert write(tmp_path, "many", arrays, naming="new", max_shard_bytes=100_000) == one


def test_one_changed_number_changes_it(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    one = write(tmp_path, "one", arrays)
    changed = {**arrays, "model.norm.weight": arrays["model.norm.weight"] + np.float32(1e-6)}
    assert write(tmp_path, "other", changed) != one
