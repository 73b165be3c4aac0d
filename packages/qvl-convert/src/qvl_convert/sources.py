"""Open what a command takes as its source, and say plainly which other command takes what was given."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from qvl_core.errors import Problem, WeightsError
from qvl_core.input_file import printable
from qvl_core.specs.load import model_differences
from qvl_core.weights.whole_tensors import WholeTensors, open_whole_tensors

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe


def open_hf(path: Path, command: str = "reshard --sharded") -> WholeTensors:
    """Open an HF folder. Raises WeightsError for any other; `command` is what takes a sharded folder instead."""
    found = open_whole_tensors(path)
    if found.kind != "hf":
        raise WeightsError(_problem(path, "is a sharded folder, not an HF one", _instead(command, path)))
    return found


def open_sharded(path: Path, command: str = "import --hf") -> WholeTensors:
    """Open a sharded folder or a training checkpoint. Raises WeightsError for any other; `command` as above."""
    found = open_whole_tensors(path)
    if found.kind == "hf":
        raise WeightsError(_problem(path, "is an HF folder, not a sharded one", _instead(command, path)))
    return found


def require_model(recipe: Recipe, source: WholeTensors) -> None:
    """Raise WeightsError if the folder is of another model than the recipe, whose layout is for its own layers."""
    differences = model_differences(recipe.spec, source.spec)
    if differences:
        message = f"holds {source.spec.name}, the recipe's model is {recipe.spec.name}, which is another:"
        message = "\n".join([message, *differences[:10]])
        raise WeightsError(_problem(source.path, message, "give the folder of the recipe's model"))


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


def _instead(command: str, path: Path) -> str:
    layout = "" if command.startswith("export") else " --tp ... --pp ..."
    return f"qvl convert {command} {shlex.quote(str(path))} --out ...{layout}"


def _problem(path: Path, message: str, fix: str) -> Problem:
    return Problem(where=printable(str(path)), message=message, fix=fix)
