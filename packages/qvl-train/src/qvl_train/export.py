"""The HF folder at the end of a run: the last checkpoint's weights with the files that it carries."""

from __future__ import annotations

import json
from pathlib import Path

from qvl_core.durable import remove_folder
from qvl_core.specs.load import CONFIG_NAME
from qvl_core.weights.hf_writer import config_with_dtype, write_hf_folder
from qvl_core.weights.row_reader import OpenFiles, tensor_to_write
from qvl_core.weights.whole_tensors import open_whole_tensors

FOLDER_NAME = "hf"


def export_hf(checkpoint: Path, run: Path) -> Path:
    """Write `hf/` in the run's folder: weights in the checkpoint's dtype, classic names, complete side files.

    The checkpoint may have any layout; a block of a tensor at a time is in memory. A folder that an earlier,
    unfinished try of the same run left there is replaced. Raises WeightsError where bytes are not what was recorded.
    """
    target = run / FOLDER_NAME
    if target.exists():
        remove_folder(target)
    source = open_whole_tensors(checkpoint)
    config = json.loads((checkpoint / CONFIG_NAME).read_text(encoding="utf-8"))
    with OpenFiles(source.inputs) as files:
        tensors = [tensor_to_write(tensor, files) for tensor in source.tensors.values()]
        write_hf_folder(tensors, checkpoint, target, config=config_with_dtype(config, tensors[0].dtype))
    return target
