"""The tasks `eval` and `infer` of `qvl run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qvl_core.errors import Problem, RecipeError

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe
    from qvl_core.tasks import RunOptions


def run(recipe: Recipe, options: RunOptions) -> int:
    """Run an eval recipe and give the exit code.

    Raises RecipeError for an infer recipe: it says how to answer, not what; the questions come with `qvl infer`.
    """
    if recipe.task == "infer":
        raise RecipeError(
            Problem(
                where=recipe.path,
                key="task",
                message="an infer recipe says how to answer; it holds no question to run",
                fix=f'qvl infer {recipe.path} --image PICTURE.png --prompt "What is in the picture?"',
            )
        )
    from qvl_eval.evaluate import evaluate

    return evaluate(recipe, options)
