"""Whether the disk has room for what a run will write, computed from the parameter table before the first step."""

from __future__ import annotations

import shutil
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from qvl_core.cli.terminal import bytes_text
from qvl_core.errors import OutputError, Problem
from qvl_core.lora_table import weight_table
from qvl_core.weights.hf_writer import list_side_files

from qvl_train.adapter import FOLDER_NAME as ADAPTER_NAME
from qvl_train.checkpoint import list_steps
from qvl_train.export import FOLDER_NAME as HF_NAME

if TYPE_CHECKING:
    from qvl_core.recipe.schema import Recipe

# A tensor's line in a file's header and in the manifest, name and checksum included; rounded up.
_BYTES_A_TENSOR = 512
_MASTER_BYTES = 4
_MOMENT_BYTES = 8


def checkpoint_bytes(recipe: Recipe) -> int:
    """Estimate the size of one checkpoint: every rank's weights, and moments and masters of what is not frozen."""
    assert recipe.train is not None
    width = 4 if recipe.model.dtype == "float32" or recipe.lora is not None else 2
    state = _MOMENT_BYTES + (_MASTER_BYTES if width < _MASTER_BYTES else 0)
    total = _side_bytes(recipe)
    for row in weight_table(recipe.spec, recipe.lora, recipe.parallel):
        elements = prod(row.local_shape(recipe.parallel.tp)) * recipe.parallel.tp * len(row.stages)
        # With adapters, what is in the table are the factors: all of them train.
        trains = recipe.lora is not None or row.component not in recipe.model.freeze
        has_state = recipe.train.save.optimizer and trains
        total += elements * (width + (state if has_state else 0)) + _BYTES_A_TENSOR * (4 if has_state else 1)
    return total


def export_bytes(recipe: Recipe) -> int:
    """Estimate the size of the HF folder at the end, or of the adapter's; 0 where none is asked for."""
    assert recipe.train is not None
    if recipe.lora is None and not recipe.train.save.export_hf:
        return 0
    width = 4 if recipe.model.dtype == "float32" or recipe.lora is not None else 2
    rows = weight_table(recipe.spec, recipe.lora)
    return _side_bytes(recipe) + sum(prod(row.shape) * width + _BYTES_A_TENSOR for row in rows)


def check_room(recipe: Recipe, folder: Path) -> str:
    """Raise OutputError unless one more checkpoint and the export fit on the folder's disk.

    Gives a warning, or "", where the checkpoints that are kept and the next one do not.
    """
    assert recipe.train is not None
    keep = recipe.train.save.keep
    one, export = checkpoint_bytes(recipe), export_bytes(recipe)
    parent = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(parent).free
    there = len(list_steps(folder))
    is_adapter = recipe.lora is not None
    exported = export if (folder / (ADAPTER_NAME if is_adapter else HF_NAME)).is_dir() else 0
    what = "the adapter" if is_adapter else "the HF export"
    numbers = f"a checkpoint has {bytes_text(one)}, {what} {bytes_text(export)}, {bytes_text(free)} are free"
    if free < one + export - exported:
        raise OutputError(
            Problem(
                where=str(folder),
                key="output.dir",
                message=f"has not even room for one checkpoint and the export: {numbers}",
                fix="make room, or choose another disk: --set output.dir=/other/disk/run"
                + ("" if is_adapter else "\nor write less: --set train.save.export_hf=false"),
            )
        )
    # The oldest is removed when the next one is complete: one more than are kept.
    missing = max(1, keep + 1 - there) * one + export - exported
    if free >= missing:
        return ""
    return (
        f"warning: {folder} has no room for the {keep} checkpoints that are kept and one more: {numbers}, "
        f"{bytes_text(missing)} will be needed\n"
        f"  fix: make room before the disk is full, or --set train.save.keep={max(1, keep - 1)}"
    )


def _side_bytes(recipe: Recipe) -> int:
    return sum(path.stat().st_size for path in list_side_files(Path(recipe.weights.source)))
