"""Whether the files that a recipe names are there: what `qvl run` needs and `qvl check` does not ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from qvl_core.errors import DataError, InputError, Problem, WeightsError
from qvl_core.weights_fit import where_of

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe


def missing_inputs(recipe: Recipe) -> tuple[Problem, ...]:
    """List the weights, data and media that the task reads and that are not there."""
    return tuple(_missing(recipe))


def require_inputs(recipe: Recipe) -> None:
    """Raise WeightsError or DataError, with every missing file, unless all are there."""
    problems = missing_inputs(recipe)
    if problems:
        error: type[InputError] = WeightsError if problems[0].key.startswith("weights") else DataError
        raise error(problems)


def _missing(recipe: Recipe) -> Iterator[Problem]:
    weights = f"download {recipe.spec.name} there, or --set weights.source=DIR"
    yield from _absent(recipe, "weights.source", recipe.weights.source, weights)
    fix = "train one (recipes/7b_lora_sft.toml), or --set weights.adapter=DIR"
    yield from _absent(recipe, "weights.adapter", recipe.weights.adapter, fix)
    if recipe.eval and (recipe.task == "eval" or (recipe.task == "sft" and recipe.eval.every)):
        yield from _absent(recipe, "eval.data", recipe.eval.data, "get the benchmark, or --set eval.data=FILE")
    if recipe.task == "sft":
        fix = "paths are relative to the working directory: start qvl where they are right, or correct them"
        for index, source in enumerate(recipe.data.sources):
            key = f"data.sources[{index}]"
            yield from _absent(recipe, f"{key}.path", source.path, fix)
            yield from _absent(recipe, f"{key}.media_root", source.media_root, fix)
        if recipe.data.validation:
            yield from _absent(recipe, "data.validation.path", recipe.data.validation.path, fix)


def _absent(recipe: Recipe, key: str, path: str | None, fix: str) -> Iterator[Problem]:
    try:
        there = not path or Path(path).exists()
        message = f"{path} does not exist (looked in {Path.cwd()})"
    except OSError as error:
        there, message = False, f"{path} cannot be read: {error.strerror}"
    if not there:
        yield Problem(where=where_of(recipe, key), key=key, message=message, fix=fix)
