"""Whether the folder of `weights.source` is there and holds the recipe's model; told before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qvl_core.errors import Problem, WeightsError

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe
    from qvl_core.weights.hf_folder import HFFolder
    from qvl_core.weights.sharded_folder import ShardedFolder


def open_weights(recipe: Recipe) -> HFFolder | ShardedFolder:
    """Open the folder and compare it with the recipe's model; no tensor is read.

    Raises WeightsError if it is missing, damaged, or of another model or layout.
    """
    from qvl_core.weights.source import open_source
    from qvl_core.weights_fit import check_weights, where_of

    folder = Path(recipe.weights.source)
    if not folder.exists():
        key = "weights.source"
        message = f"{folder} does not exist"
        fix = "train first (for the tiny recipes: qvl run recipes/tiny_sft.toml), or --set weights.source=DIR"
        raise WeightsError(Problem(where=where_of(recipe, key), key=key, message=message, fix=fix))
    problems = check_weights(recipe)
    if problems:
        raise WeightsError(problems)
    return open_source(folder)
