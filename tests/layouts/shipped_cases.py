"""The cases of the shipped fine-tuning recipes: everything from the recipe file, but for what this machine cannot hold.

Reduced: the widths (`shipped_model`), the replicas where there would be more than 16 processes, the micro batches of a
step, and bfloat16, which is fp32 on CPU. The learning rate is larger, so that three steps are seen in the loss.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cases import Case
from qvl_core import load_recipe
from qvl_core.recipe import Recipe
from shipped_model import narrow
from specs import SPECS

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
# Not 7b_lora_sft: it trains adapters. Its layout is that of 7b_sft.
TRAINED = ("3b_sft", "7b_sft", "7b_video_sft", "32b_sft", "72b_sft")
MOST_PROCESSES = 16
STEPS = 3
LEARNING_RATE = 1e-3


def shipped_recipe(name: str) -> Recipe:
    """Load a recipe as it is shipped."""
    return load_recipe(RECIPES / f"{name}.toml")


def shipped_case(name: str) -> Case:
    """Give the case of a recipe, and make its narrow model known under the recipe's name.

    The first step has one micro batch more than the pipeline has stages, so that every stage does some of its work in
    each of 1F1B's three phases.
    """
    recipe = shipped_recipe(name)
    layout = recipe.parallel
    SPECS[name] = narrow(recipe.spec, layout.tp)
    stated = recipe.layout.recompute
    recompute: Any = stated if isinstance(stated, str) else "+".join(stated)
    return Case(
        spec=name,
        tp=layout.tp,
        pp=layout.pp,
        dp=min(layout.dp, MOST_PROCESSES // (layout.tp * layout.pp)),
        vision_stages=layout.vision_stages,
        text_stages=layout.text_stages,
        zero1=recipe.layout.zero1,
        recompute=recompute,
        accumulation=layout.pp + 1,
        mix="videos" if "video" in name else "images",
        freeze=recipe.model.freeze,
        reduction=recipe.train.loss_reduction if recipe.train is not None else "",
        steps=STEPS,
    )


def micro_batch_counts(case: Case) -> tuple[int, ...]:
    """Give each replica's micro batches in each step: after the first step, a few are enough to see the weights."""
    return (case.accumulation, *[max(1, 2 // case.dp)] * (case.steps - 1))
