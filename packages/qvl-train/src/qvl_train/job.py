"""What the steps of a run need, gathered once: by the worker that prepares it, for the loop and what the loop calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qvl_core.evaluators import Evaluator
    from qvl_core.model import Qwen25VL
    from qvl_core.parallel.pipeline import Pipeline
    from qvl_core.parallel.world import World
    from qvl_core.recipe.schema import Recipe
    from qvl_data import PreparedData
    from qvl_data.batching.bad_samples import BadSamples

    from qvl_train.optimizer import Optimizer


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that a rank's steps need, ready to go on after `first_step` steps."""

    recipe: Recipe
    world: World
    model: Qwen25VL
    pipeline: Pipeline
    optimizer: Optimizer
    data: PreparedData
    folder: Path
    run_id: str
    source_revision: str
    steps: int
    first_step: int
    consumed_samples: int = 0
    """Items, samples or packs, that the steps before `first_step` took."""
    bad_samples: BadSamples | None = None
    """Is told which samples this replica could not use; the rank's log alone if None."""
    evaluator: Evaluator | None = None
    """Evaluates the model now and then, where the recipe has it."""
    stamp: Callable[[str], None] = lambda name: None
    """Keeps the time at which something was reached first, for the launcher."""
