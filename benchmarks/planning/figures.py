"""The figures of the planner: the four sizes against the reference's layouts, and 72B from 16 to 1,024 devices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from qvl_core import load_recipe
from qvl_core.lora_table import TARGETS, Lora
from qvl_core.planner.costs import Choice, SharedCosts
from qvl_core.planner.devices import device_facts
from qvl_core.planner.job import QVL, Engine, Job, job_of
from qvl_core.planner.memory import GIB
from qvl_core.planner.plan import Plan, plan_values
from qvl_core.planner.recipe_plan import recipe_plan
from qvl_core.planner.search import plan_of, search, shortfall
from qvl_core.planner.splits import SplitSearch

ROOT = Path(__file__).resolve().parents[2]
SIZES = ("3b_sft", "7b_sft", "32b_sft", "72b_sft")
DEVICE, MEMORY_GIB, HEADROOM = "ascend-910b2", 64.0, 0.10
USABLE = MEMORY_GIB * (1 - HEADROOM) * GIB
COUNTS = (16, 32, 64, 128, 256, 512, 1024)
# The batch of the recipe on its 64 devices.
SAMPLES_A_DEVICE = 6
ADAPTERS = Lora(rank=8, alpha=16, dropout=0.0, components=("text",), targets=TARGETS["text"])


def sizes(engine: Engine = QVL) -> dict[str, Any]:
    """Compare, for every size: the reference's layout, our split of the same degrees, and the best of all.

    `engine`: ours, which runs stages again, or one like the reference's, which keeps their activations.
    """
    figures = {}
    for name in SIZES:
        recipe = load_recipe(str(ROOT / "recipes" / f"{name}.toml"))
        job = replace(job_of(recipe, device_facts(DEVICE)), engine=engine)
        reference = recipe_plan(recipe, job)
        best = search(job, recipe.parallel.world_size, USABLE, top=1)[0]
        same = [
            plan
            for recompute in {reference.recompute, frozenset()}
            if (plan := split_again(job, reference, recompute)) is not None
        ]
        resplit = min(same, key=lambda plan: plan.step_s) if same else None
        figures[name] = {
            "devices": recipe.parallel.world_size,
            "reference": short(reference),
            "same degrees, our split": short(resplit) if resplit else None,
            "best": short(best),
            "best_is_faster_by": round(reference.step_s / best.step_s - 1, 3),
            "our_split_is_faster_by": round(reference.step_s / resplit.step_s - 1, 3) if resplit else None,
        }
    return figures


def split_again(job: Job, plan: Plan, recompute: frozenset[Any]) -> Plan | None:
    """Give the plan with the best stage lists and nothing else changed but what is recomputed."""
    layout = plan.layout
    choice = Choice(
        tp=layout.tp, pp=layout.pp, dp=layout.dp, micro_batch=plan.micro_batch, recompute=recompute, zero1=plan.zero1
    )  # fmt: skip
    split = SplitSearch(SharedCosts(job), choice).best(USABLE)
    return plan_of(job, choice, split) if split else None


def scale() -> dict[str, list[dict[str, Any]]]:
    """Give the best plan of 72B for every number of devices: the same batch, a batch that grows, and adapters."""
    job = job_of(load_recipe(str(ROOT / "recipes" / "72b_sft.toml")), device_facts(DEVICE))
    adapters = replace(job, lora=ADAPTERS)
    return {
        "batch of 384": [point(job, count) for count in COUNTS],
        "6 samples a device": [point(grown(job, count), count) for count in COUNTS],
        "adapters, 6 samples a device": [point(grown(adapters, count), count) for count in COUNTS],
    }


def grown(job: Job, count: int) -> Job:
    """Give the job with as much work for each device on any number of them."""
    return replace(job, global_batch=SAMPLES_A_DEVICE * count)


def point(job: Job, count: int) -> dict[str, Any]:
    """Give the best plan for so many devices in short, or what would fit."""
    found = search(job, count, USABLE, top=1)
    if found:
        return {"devices": count, "global_batch": job.global_batch, **short(found[0])}
    short_of = shortfall(job, count, USABLE)
    least = round(short_of.least.memory / GIB, 1) if short_of.least else None
    fewest = short_of.fewest.layout.world_size if short_of.fewest else None
    return {"devices": count, "global_batch": job.global_batch, "fits": False, "least_gib": least, "fewest": fewest}


def short(plan: Plan) -> dict[str, Any]:
    """Give the numbers of a plan that a table needs."""
    values = plan_values(plan)
    keys = ("layout", "micro_batch", "memory_gib", "step_s", "samples_per_s", "tokens_per_s", "mfu", "bubble")
    return {**{key: values[key] for key in keys}, "bottleneck": values["bottleneck"], "shares": values["shares"]}
