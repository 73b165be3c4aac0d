"""The plan of a recipe as it stands: its layout, micro batch and recomputation on the device that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qvl_core.planner.devices import device_facts
from qvl_core.planner.job import COMPONENTS, Job, job_of, on_one_machine
from qvl_core.planner.plan import Plan, gib, make_plan

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe


def default_device(recipe: Recipe) -> str:
    """Name the device whose facts a recipe is planned with."""
    return "cpu" if recipe.launch.device == "cpu" else "ascend-910b2"


def recipe_plan(recipe: Recipe, job: Job | None = None) -> Plan:
    """Give the plan of a recipe; `job` where it is not the recipe's own on its default device."""
    stated = recipe.layout.recompute
    recompute = frozenset(COMPONENTS if stated == "full" else () if stated == "none" else stated)
    planned = job or job_of(recipe, device_facts(default_device(recipe)))
    if recipe.launch.device == "cpu" and planned.device.name == "cpu":
        planned = on_one_machine(planned, recipe.parallel.world_size)
    # Answering runs nothing again, and has no optimizer to cut.
    trains = planned.task == "train"
    return make_plan(
        planned,
        recipe.parallel,
        recompute=recompute if trains else frozenset(),
        zero1=recipe.layout.zero1 and trains,
    )


def memory_sentence(plan: Plan) -> str:
    """Say in a line what the fullest rank takes, and how much of it is activations and caches."""
    parts = plan.stages[plan.fullest].memory
    moving = parts.total - parts.state - parts.communication - parts.base
    what = "activations and gradients on their way" if plan.job.task == "train" else "activations and the cache"
    stage = f" on stage {plan.fullest}" if plan.layout.pp > 1 else ""
    return f"the fullest rank takes about {gib(parts.total):.1f} GiB{stage}, {gib(moving):.1f} of them {what}"
