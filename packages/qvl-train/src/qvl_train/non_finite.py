"""Where a NaN or infinity began: on which ranks, with which samples. Asked once, after a step has failed.

All ranks run the step's micro batches again, one by one. Forward, what is not finite spreads to the later stages;
backward, gradients that are not finite spread to the earlier ones: so the first stage in the direction of travel is
where it began. Tensor ranks of a stage share their sums and are named together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray
from qvl_core.batch import Batch
from qvl_core.parallel.mesh import Coordinate, coordinate_of

if TYPE_CHECKING:
    from qvl_core.parallel.pipeline import Pipeline
    from qvl_core.parallel.world import World

SHOWN_SAMPLES = 32


@dataclass(frozen=True, kw_only=True)
class Origins:
    """What a second pass has found: ranks, and the samples of the micro batches concerned; both empty for nothing."""

    ranks: tuple[int, ...]
    samples: tuple[str, ...]


def trace_loss(pipeline: Pipeline, world: World, micro_batches: Sequence[Batch]) -> Origins:
    """Find where a loss that is not finite began. All ranks call it with their replica's micro batches."""
    bad = [number for number, batch in enumerate(micro_batches) if not pipeline.is_finite(batch, number)]
    return _origins(world, micro_batches, bad, origin=min)


def trace_gradients(
    pipeline: Pipeline, world: World, micro_batches: Sequence[Batch], weights: Sequence[NDArray[np.float32]]
) -> Origins:
    """Find where gradients that are not finite began; before any sum over replicas, which would spread them."""
    bad = []
    for number, (batch, weight) in enumerate(zip(micro_batches, weights, strict=True)):
        _, gradients = pipeline.gradients([batch], [weight], first=number)
        if not all(_is_finite(gradient) for gradient in gradients):
            bad.append(number)
    return _origins(world, micro_batches, bad, origin=max)


def describe(what: str, value: float, step: int, origins: Origins, world: World, all_samples: Sequence[str]) -> str:
    """Give the text of the error, the same on all ranks. `all_samples` are named where nothing was found."""
    head = f"the {what} of step {step} is {value}; the step was not applied and nothing was saved after it.\n"
    if origins.ranks:
        named = ", ".join(_rank_text(rank, world) for rank in origins.ranks)
        body = f"it began on {named}, with these samples of the step:\n  {_listed(origins.samples)}\n"
        fix = "look at these samples; or lower train.optimizer.lr or train.optimizer.clip_norm (0 is off), "
    else:
        body = (
            "a second pass over its micro batches gave finite numbers on every rank: an overflow in the sum over "
            f"micro batches or replicas, or an error of a device\nsamples of this step:\n  {_listed(all_samples)}\n"
        )
        fix = "look at the devices' health and at these samples; or lower train.optimizer.lr, "
    return f"{head}{body}fix: {fix}and run the same command again: it goes on from the last checkpoint"


def _origins(
    world: World, micro_batches: Sequence[Batch], bad: list[int], *, origin: Callable[[Iterable[int]], int]
) -> Origins:
    """Put together what the ranks have found. `origin` chooses, of the stages concerned, the one where it began."""
    told = [
        cast("dict[str, list[str]]", found)
        for found in world.exchange({str(number): list(micro_batches[number].sample_ids) for number in bad})
    ]
    places = [coordinate_of(rank, world.layout) for rank in range(len(told))]
    ranks: set[int] = set()
    samples: dict[str, None] = {}
    for dp in range(world.layout.dp):
        members = [rank for rank, place in enumerate(places) if place.dp == dp]
        for number in sorted({number for rank in members for number in told[rank]}, key=int):
            holders = [rank for rank in members if number in told[rank]]
            stage = origin(places[rank].pp for rank in holders)
            ranks.update(rank for rank in holders if places[rank].pp == stage)
            samples.update(dict.fromkeys(told[holders[0]][number]))
    return Origins(ranks=tuple(sorted(ranks)), samples=tuple(samples))


def _is_finite(gradient: Tensor) -> bool:
    return bool(np.isfinite(gradient.asnumpy()).all())


def _rank_text(rank: int, world: World) -> str:
    place: Coordinate = coordinate_of(rank, world.layout)
    return f"rank {rank} (stage {place.pp}, tp {place.tp}, dp {place.dp})"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN_SAMPLES
    return "\n  ".join(names[:SHOWN_SAMPLES]) + (f"\n  and {more} more" if more > 0 else "")
