"""The HF folder at the end of a run: the trained weights with the files of the checkpoint that they started from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qvl_core.durable import remove_folder
from qvl_core.model import Qwen25VL
from qvl_core.specs.load import CONFIG_NAME
from qvl_core.weights.hf_writer import write_hf_folder

from qvl_train.checkpoint import to_write

FOLDER_NAME = "hf"


def export_hf(model: Qwen25VL, side_files: Path, run: Path) -> Path:
    """Write `hf/` in the run's folder: weights in the model's dtype, classic names, complete side files.

    A folder that an earlier, unfinished try of the same run left there is replaced.
    """
    target = run / FOLDER_NAME
    if target.exists():
        remove_folder(target)
    config = json.loads((side_files / CONFIG_NAME).read_text(encoding="utf-8"))
    tensors = [to_write(name, array) for name, array in model.named_arrays()]
    write_hf_folder(tensors, side_files, target, config=with_dtype(config, model.dtype))
    return target


def with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Give the configuration with every stated dtype set to the one of the weights.

    HF loads in the dtype that the configuration names: a wrong one would round the weights on loading.
    """
    changed: dict[str, Any] = {
        key: with_dtype(value, dtype) if isinstance(value, dict) else dtype if key in ("torch_dtype", "dtype") else value
        for key, value in config.items()
    }
    if "model_type" in changed and "vision_config" in changed and not {"torch_dtype", "dtype"} & changed.keys():
        changed["torch_dtype"] = dtype
    return changed
