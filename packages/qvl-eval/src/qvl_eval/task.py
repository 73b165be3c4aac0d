"""The tasks `eval` and `infer` of `qvl run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from qvl_core.errors import Problem, RecipeError

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe
    from qvl_core.tasks import RunOptions

ANSWERS = "answers.jsonl"


def run(recipe: Recipe, options: RunOptions) -> int:
    """Run an eval or infer recipe and give the exit code.

    Raises RecipeError for an infer recipe without [infer]: it says how to answer, not what; the questions come with
    `qvl infer`.
    """
    if recipe.task == "infer":
        return _infer(recipe, options)
    from qvl_eval.evaluate import evaluate

    return evaluate(recipe, options)


def _infer(recipe: Recipe, options: RunOptions) -> int:
    """Answer the questions of [infer]. Of several machines, the first one asks; the others only hold the model."""
    if options.node_rank not in (None, 0):
        assert options.start_workers is not None, "a recipe of several machines has several processes"
        options.start_workers()
        return 0
    from qvl_eval.infer import Capacity, infer, infer_file
    from qvl_eval.questions import questions_of

    section = recipe.infer
    if section is None or (section.prompt is None and section.input is None):
        message = "an infer recipe says how to answer; it holds no question to run"
        fix = f'qvl infer {recipe.path} --image PICTURE.png --prompt "What is in the picture?"'
        raise RecipeError(Problem(where=recipe.path, key="infer", message=message, fix=fix))
    if section.prompt is not None and section.input is not None:
        message = "holds both a prompt and a file of questions"
        raise RecipeError(Problem(where=recipe.path, key="infer", message=message, fix="--set infer.prompt="))
    capacity = Capacity(slots=section.batch)
    if section.input is not None:
        root = None if section.media_root is None else Path(section.media_root)
        output = Path(recipe.output.dir) / ANSWERS
        return infer_file(
            recipe,
            Path(section.input),
            output,
            capacity,
            media_root=root,
            system=section.system,
            start_workers=options.start_workers,
        )
    assert section.prompt is not None, "checked above"
    images, videos = ([Path(path) for path in paths] for paths in (section.images, section.videos))
    questions = questions_of([section.prompt], images, videos, section.system)
    for result in infer(recipe, questions, capacity, start_workers=options.start_workers):
        typer.echo(result["answer"])
    return 0
