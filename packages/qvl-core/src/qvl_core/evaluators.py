"""Evaluating a model while it trains: what a training asks, and the package that answers, found by its entry point.

Training and evaluation are packages that do not know each other. Group `qvl.evaluators`, name `eval`: a class that is
made of a recipe, as `Evaluator` says.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from qvl_core.errors import NotInstalledError

if TYPE_CHECKING:
    from qvl_core.model import Qwen25VL
    from qvl_core.parallel.world import World
    from qvl_core.recipe import Recipe

EVALUATOR_GROUP = "qvl.evaluators"
PACKAGE = "qvl-eval"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What an evaluation came to, the same on every rank.

    `numbers` go into the metrics, by their keys; `note` is a line for people; `answers` are the lines of a JSON Lines
    file. `signal_name` is the signal that asked any rank to stop; it ended the evaluation early, without numbers, where
    that is not `is_complete`.
    """

    numbers: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    answers: str = ""
    signal_name: str | None = None
    is_complete: bool = True


class Evaluator(Protocol):
    """An evaluation of a recipe with [eval], made without a model and without mindspore."""

    def check(self) -> list[str]:
        """Look at all that the evaluation will read, and give what a person should know of it. Raises InputError."""
        ...

    def measure(
        self,
        model: Qwen25VL,
        world: World,
        *,
        step: int,
        show: Callable[[int, int], None],
        asked_to_stop: Callable[[], str | None],
    ) -> Measured:
        """Answer and score with the model as it is now; every rank of the world calls it, with its own part.

        `show` is told how many of the replica's rows are done, and how many there are. The model, and everything else
        that the training goes on with, is as before when it returns.
        """
        ...


def load_evaluator(recipe: Recipe) -> Evaluator | None:
    """Make the evaluator of a training recipe; None where it evaluates nothing.

    Raises NotInstalledError where the package that evaluates is missing, InputError for a benchmark that cannot be
    used.
    """
    if recipe.eval is None or not recipe.eval.every:
        return None
    found = tuple(metadata.entry_points(group=EVALUATOR_GROUP, name="eval"))
    if not found:
        raise NotInstalledError(
            f"{recipe.path}: eval.every\n  the model is to be evaluated every {recipe.eval.every} steps, which the "
            f"package {PACKAGE} does; it is not installed, or an older version is\n"
            f"  fix: pip install --upgrade {PACKAGE}, or --set eval.every=0"
        )
    make = cast("Callable[[Recipe], Evaluator]", found[0].load())
    return make(recipe)


def benchmark_pictures(path: Path, indexes: Collection[str], *, compat: str) -> dict[str, tuple[bytes, ...]]:
    """Give the image files that a benchmark's file has for these rows; rows that it does not have are left out.

    Read by the static method `pictures` of the class that evaluates. Raises NotInstalledError where there is none,
    InputError for a file that cannot be used.
    """
    found = tuple(metadata.entry_points(group=EVALUATOR_GROUP, name="eval"))
    read = getattr(found[0].load(), "pictures", None) if found else None
    if read is None:
        raise NotInstalledError(
            f"{PACKAGE} reads the pictures of benchmarks; it is not installed, or an older version is"
        )
    return cast("dict[str, tuple[bytes, ...]]", read(path, indexes, compat=compat))


def is_due(recipe: Recipe, step: int, steps: int) -> bool:
    """Tell whether a training of so many steps evaluates after `step` updates: every N, and at the end."""
    every = recipe.eval.every if recipe.eval is not None else 0
    return bool(every) and step > 0 and (step % every == 0 or step == steps)
