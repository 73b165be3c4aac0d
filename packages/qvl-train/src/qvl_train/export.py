"""The HF folder at the end of a run: the trained weights with the files of the checkpoint that they started from."""

from __future__ import annotations

import json
from pathlib import Path

from qvl_core.durable import remove_folder
from qvl_core.model import Qwen25VL
from qvl_core.specs.load import CONFIG_NAME
from qvl_core.weights.hf_writer import config_with_dtype, write_hf_folder

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
    write_hf_folder(tensors, side_files, target, config=config_with_dtype(config, tensors[0].dtype))
    return target
