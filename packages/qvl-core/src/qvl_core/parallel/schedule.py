"""The order of work of a pipeline stage: 1F1B, one forward then one backward. Pure; who sends what is the pipeline's.

PipeDream-flush, Megatron-LM (arXiv 2104.04473), section 2.2.1: a stage runs some micro batches forward until its first
gradient is due (warm-up), then alternates, then runs the remaining ones backward (cool-down). It ends with nothing in
flight, so that a step is the sum over its micro batches, whatever the number of stages.

The order needs sends that do not wait for their receiver; one unfinished send at a time in each direction is enough.
With sends that wait (a rendezvous, or sends and receives queued behind each other on one stream of a device) neighbours
lock as soon as there are two micro batches: one sends an activation on, the other a gradient back, and each waits for
the other to receive. Such an engine has to begin a send and the receive that answers it, from the same neighbour, in
one call. The tests try all of this for every size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["forward", "backward"]


@dataclass(frozen=True, kw_only=True)
class Action:
    """One piece of work of a stage. `micro_batch` counts from 0 within the step."""

    kind: Kind
    micro_batch: int


def one_f_one_b(stage: int, stages: int, micro_batches: int) -> tuple[Action, ...]:
    """List the work of a stage in order: every micro batch once forward and once backward, each in rising order.

    Raises ValueError for a stage outside [0, stages) or less than one micro batch.
    """
    warm_up = micro_batches_in_flight(stage, stages, micro_batches) - 1
    actions = [Action(kind="forward", micro_batch=index) for index in range(warm_up)]
    for index in range(micro_batches - warm_up):
        actions.append(Action(kind="forward", micro_batch=warm_up + index))
        actions.append(Action(kind="backward", micro_batch=index))
    actions += [Action(kind="backward", micro_batch=index) for index in range(micro_batches - warm_up, micro_batches)]
    return tuple(actions)


def micro_batches_in_flight(stage: int, stages: int, micro_batches: int) -> int:
    """Count the micro batches a stage has run forward and not backward, at most: what its memory must hold.

    The last stage has one, each stage before it one more. Raises ValueError as `one_f_one_b` does.
    """
    if not 0 <= stage < stages:
        raise ValueError(f"stage {stage} is outside 0..{stages - 1}")
    if micro_batches < 1:
        raise ValueError(f"a step needs a micro batch, not {micro_batches}")
    return min(stages - stage, micro_batches)
