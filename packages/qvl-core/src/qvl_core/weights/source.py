"""Find out what a weights folder is: an HF checkpoint, a sharded one, a training checkpoint, or nothing usable."""

from __future__ import annotations

import shlex
import stat
from pathlib import Path
from typing import Literal

from qvl_core.errors import Problem, WeightsError
from qvl_core.input_file import kind_of_file, printable
from qvl_core.specs.load import CONFIG_NAME
from qvl_core.weights.hf_folder import HFFolder, open_hf_folder
from qvl_core.weights.manifest import MANIFEST_NAME
from qvl_core.weights.sharded_folder import ShardedFolder, open_sharded_folder

STATE_NAME = "state.json"
_RANK_FILES = ("rank-pp", "optimizer-pp")

# What lies at the top of the reference stack's folders.
_FOREIGN = {"latest_checkpointed_iteration.txt", "mp_rank_00", "mp_rank_00_000"}

SourceKind = Literal["hf", "sharded", "checkpoint"]


def classify_source(path: str | Path) -> SourceKind:
    """Tell what the folder is by what lies in it, without opening any file. Raises WeightsError if it is none."""
    folder = Path(path)
    where = printable(str(folder))
    try:
        mode = folder.stat().st_mode
        names = {entry.name for entry in folder.iterdir()} if stat.S_ISDIR(mode) else set()
    except FileNotFoundError:
        problem = Problem(where=where, message="there is no such folder", fix="check the path, or download the weights")
        raise WeightsError(problem) from None
    except (OSError, ValueError) as error:
        raise WeightsError(Problem(where=where, message=f"cannot be read: {error}")) from None
    if not stat.S_ISDIR(mode):
        message = f"is {kind_of_file(mode)}, not a folder"
        raise WeightsError(Problem(where=where, message=message, fix="give the folder that holds the weights"))
    if MANIFEST_NAME in names:
        return "checkpoint" if STATE_NAME in names else "sharded"
    if CONFIG_NAME in names and not any(name.startswith(_RANK_FILES) for name in names):
        return "hf"
    raise WeightsError(_unusable(where, names))


def open_source(path: str | Path) -> HFFolder | ShardedFolder:
    """Open an HF folder or a sharded one, whichever it is. Raises WeightsError."""
    return open_hf_folder(path) if classify_source(path) == "hf" else open_sharded_folder(path)


def _unusable(where: str, names: set[str]) -> Problem:
    if not names:
        return Problem(where=where, message="is empty", fix="download the checkpoint into it")
    if any(name.startswith(_RANK_FILES) for name in names):
        message = f"holds rank files but no {MANIFEST_NAME}: its writing was interrupted"
        return Problem(where=where, message=message, fix="convert again, or take another checkpoint of the run")
    steps = sorted(name for name in names if name.startswith("step_"))
    if steps:
        fix = f"give {where.rstrip('/')}/{printable(steps[-1], 80)}"
        return Problem(where=where, message="holds checkpoints, but is none itself", fix=fix)
    if _FOREIGN & names:
        fix = f"qvl convert import --mindspeed {shlex.quote(where)} --hf-files HF_FOLDER --out NEW_FOLDER"
        return Problem(where=where, message="is a folder of MindSpeed-MM", fix=fix)
    message = f"holds neither {CONFIG_NAME} nor {MANIFEST_NAME}"
    return Problem(where=where, message=message, fix="give an HF checkpoint folder or a sharded folder")
