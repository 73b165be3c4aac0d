"""Open what a command takes as its source, and say plainly which other command takes what was given."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from qvl_core.errors import Problem, WeightsError
from qvl_core.input_file import printable
from qvl_core.weights.whole_tensors import WholeTensors, open_whole_tensors

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe


def open_hf(path: Path) -> WholeTensors:
    """Open an HF folder. Raises WeightsError for any other."""
    found = open_whole_tensors(path)
    if found.kind != "hf":
        fix = f"qvl convert reshard --sharded {shlex.quote(str(path))} --out ... --tp ... --pp ..."
        raise WeightsError(_problem(path, "is a sharded folder, not an HF one", fix))
    return found


def open_sharded(path: Path) -> WholeTensors:
    """Open a sharded folder or a training checkpoint. Raises WeightsError for any other."""
    found = open_whole_tensors(path)
    if found.kind == "hf":
        fix = f"qvl convert import --hf {shlex.quote(str(path))} --out ... --tp ... --pp ..."
        raise WeightsError(_problem(path, "is an HF folder, not a sharded one", fix))
    return found


def source_of(recipe: Recipe) -> Path:
    """Give the weights folder of a recipe. Raises WeightsError if it is missing or does not fit the recipe's model."""
    from qvl_core.weights_fit import KEY, check_weights, where_of

    path = Path(recipe.weights.source)
    if not path.exists():
        message = f"{path} does not exist"
        fix = "download the weights, or --set weights.source=DIR"
        raise WeightsError(Problem(where=where_of(recipe, KEY), key=KEY, message=message, fix=fix))
    problems = check_weights(recipe, reshard=True)
    if problems:
        raise WeightsError(problems)
    return path


def _problem(path: Path, message: str, fix: str) -> Problem:
    return Problem(where=printable(str(path)), message=message, fix=fix)
