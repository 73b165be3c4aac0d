"""What a run goes on from, looked at before anything of it is changed for good. Nothing here imports mindspore.

The ranks choose and compare the checkpoint again when they start (`resume`): that is the plain case, and all that is
done in it. Here it is opened first where this start changes the record of the run or sets checkpoints aside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qvl_core.errors import OutputError, Problem, RunError, WeightsError
from qvl_core.run_folder import RunRecord, free_changes, version_changes
from qvl_core.weights.sharded_folder import open_sharded_folder

from qvl_train.adapter import check_adapters
from qvl_train.checkpoint import (
    Checkpoint,
    check_requested,
    list_steps,
    naming_nearest,
    open_checkpoint,
    set_aside_later,
    step_of,
)
from qvl_train.resume import require_own

if TYPE_CHECKING:
    from qvl_core.recipe.schema import Recipe


def continue_record(
    record: RunRecord,
    recipe: Recipe,
    hashes: Mapping[str, str],
    changes: Sequence[str],
    *,
    resume: str,
    steps: int,
    say: Callable[[str], None],
    files: Mapping[str, str] | None = None,
) -> RunRecord:
    """Give the record that the run goes on with, and say what is not as it was before. Holds the folder's lock.

    Checkpoints after a requested one are set aside: from the newest of them the run would go on after a stop. Raises,
    with nothing changed, OutputError or WeightsError where the checkpoint cannot be gone on from.
    """
    folder = Path(recipe.output.dir)
    requested = None if resume == "auto" else Path(resume)
    if requested is not None:
        check_requested(folder, requested)
        step = step_of(requested)
    else:
        step = _newest_step(folder)
    sets_aside = requested is not None and any(found > step for found, _ in list_steps(folder))
    if changes or sets_aside:
        start = _open(folder, requested)
        if start is not None:
            step = start.state.step
            require_own(start, record.run_id, record.data_hashes() | {hashes["data"]})
            check_adapters(start, recipe, hashes["weights"])
    _require_steps_left(folder, step, steps)
    for title, lines in (
        ("going on with these changes", changes),
        ("warning: installed versions are not those that the run was last continued with", version_changes(record)),
    ):
        if lines:
            say("\n  ".join([f"{title}:", *lines]))
    if sets_aside:
        for path in set_aside_later(folder, step):
            say(f"set aside: {path}")
    now = recipe.resolved()
    settings = free_changes(now, record.recipe)
    return replace(record.changed(now, hashes, changes, step=step, files=files, settings=settings), result=None)


def _open(folder: Path, requested: Path | None) -> Checkpoint | None:
    """Open and verify what the ranks will choose; None where there is nothing, or nothing usable, which they say."""
    if requested is not None:
        with naming_nearest(folder, requested):
            return open_checkpoint(requested)
    for _, path in list_steps(folder):
        with suppress(WeightsError, RunError):
            return open_checkpoint(path)
    return None


def _newest_step(folder: Path) -> int:
    """Give the step of the newest checkpoint whose files are whole; their contents are compared by the ranks."""
    for step, path in list_steps(folder):
        with suppress(WeightsError, RunError):
            open_sharded_folder(path)
            return step
    return 0


def _require_steps_left(folder: Path, step: int, steps: int) -> None:
    if step <= steps:
        return
    message = f"is {steps} in all; the checkpoint that the run would go on from is already after step {step}"
    fix = f"state at least {step} steps, or --resume an older checkpoint"
    raise OutputError(Problem(where=str(folder), key="train.steps", message=message, fix=fix))
