"""Numbers that follow from a recipe: what its stages hold, its batches, its checkpoints, and what a stop would lose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qvl_core.cli.terminal import bytes_text
from qvl_core.recipe.sections import SETTLED_BYTES
from qvl_core.stage_table import StageRow, stage_table

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe
    from qvl_core.recipe.sections import TrainSection

# fp32 copy of the weight and the two moments of AdamW, bytes for each trainable parameter.
OPTIMIZER_BYTES = 12
# Adapters are fp32 themselves.
ADAPTER_BYTES = 4


def rows_of(recipe: Recipe) -> tuple[StageRow, ...]:
    """Give the stage table of a recipe."""
    return stage_table(
        recipe.spec,
        recipe.parallel,
        freeze=recipe.model.freeze,
        dtype=recipe.model.dtype or "bfloat16",
        lora=recipe.lora,
    )


def training_lines(recipe: Recipe) -> list[tuple[str, str]]:
    """List (name, sentence) about batches and checkpoints of a training recipe; empty for other tasks."""
    train = recipe.train
    if train is None or recipe.task != "sft":
        return []
    return [*_batch_lines(recipe, train), *_save_lines(recipe, train)]


def _batch_lines(recipe: Recipe, train: TrainSection) -> list[tuple[str, str]]:
    replicas = recipe.parallel.dp
    accumulation = train.global_batch // (train.micro_batch * replicas)
    batches = _count(accumulation, "micro batch", "es")
    parts = f"{_count(replicas, 'replica')} x {batches} x {_count(train.micro_batch, 'sample')}"
    longest = train.global_batch * recipe.data.sequence_length
    lines = [
        ("step", f"{train.global_batch} samples = {parts}"),
        ("", f"at most {longest:,} tokens ({train.global_batch} x {recipe.data.sequence_length})"),
    ]
    if train.steps:
        total = train.steps * train.global_batch
        lines.append(("run", f"{train.steps:,} steps, {total:,} samples"))
    else:
        lines.append(("run", f"{_count(train.epochs or 0, 'epoch')}; the number of steps depends on the data"))
    return lines


def _save_lines(recipe: Recipe, train: TrainSection) -> list[tuple[str, str]]:
    save = train.save
    rows = rows_of(recipe)
    trained = sum(row.rank_trainable for row in rows) * recipe.parallel.tp
    if recipe.lora is None:
        weights, each = sum(row.rank_bytes for row in rows) * recipe.parallel.tp, OPTIMIZER_BYTES
    else:
        weights, each = ADAPTER_BYTES * trained, OPTIMIZER_BYTES - ADAPTER_BYTES
    optimizer = each * trained if save.optimizer else 0
    parts = f"{bytes_text(weights)} {'weights' if recipe.lora is None else 'adapters'}"
    parts += f" + {bytes_text(optimizer)} optimizer" if optimizer else ", no optimizer"
    kept = f"{save.keep} kept; {bytes_text((weights + optimizer) * (save.keep + 1))} while one more is written"
    lines = [
        ("checkpoint", f"every {_count(save.every, 'step')}, about {bytes_text(weights + optimizer)}"),
        ("", parts),
        ("", kept),
        ("a crash loses", _loss_text(recipe, min(save.every, train.steps or save.every))),
    ]
    if save.background and weights + optimizer > SETTLED_BYTES:
        lines.append(("", "and the steps taken while a checkpoint is being written (train.save.background)"))
    return lines


def _loss_text(recipe: Recipe, every: int) -> str:
    # A stop falls anywhere between two checkpoints with equal chance.
    text = f"at most {_count(every, 'step')}, {every / 2:g} on average"
    # Ctrl-C and SIGTERM lose nothing: they save first.
    step_time = recipe.expected.step_time_s if recipe.expected else None
    if step_time:
        text += f"; at {step_time:g} s a step that is {_duration(every / 2 * step_time)} on average"
    return text


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}" + ("" if number == 1 else plural)
