"""Answer one question about any number of images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qvl_core.errors import Problem, RecipeError

from qvl_eval.answering import Answer, load_answerer

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe


def infer(recipe: Recipe, prompt: str, images: Sequence[Path]) -> Answer:
    """Answer `prompt` about `images` with the recipe's weights; any task's recipe will do.

    Raises DataError for an image that cannot be read, WeightsError, NotInstalledError.
    """
    from qvl_data.prompt import build_prompt

    if recipe.parallel.world_size > 1:
        message = f"the layout has {recipe.parallel.world_size} processes; this version of qvl infer runs in one"
        fix = "--set layout.tp=1 --set layout.pp=1 --set layout.dp=1"
        raise RecipeError(Problem(where=recipe.path, key="layout", message=message, fix=fix))
    answerer = load_answerer(recipe)
    question = build_prompt(answerer.processor, images, prompt, sample_id="--prompt")
    return answerer.answer([question])[0]


def as_json(recipe: Recipe, prompt: str, images: Sequence[Path], answer: Answer) -> str:
    """Give one line of JSON with the question and the answer."""
    content = {
        "prompt": prompt,
        "images": [str(image) for image in images],
        "answer": answer.text,
        "new_tokens": answer.new_tokens,
        "weights": recipe.weights.source,
    }
    return json.dumps(content, ensure_ascii=False)
