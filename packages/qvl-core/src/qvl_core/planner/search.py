"""The search: every legal tp, pp, dp, micro batch and recomputation on so many devices, with the best split of each.

What is faster is better; of plans equally fast, the one that takes less memory. Time does not depend on how much memory
there is, so with more of it the best plan never gets slower.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, inf

from qvl_core.layout import Layout
from qvl_core.layout_rules import legal_tensor_degrees
from qvl_core.params import Component
from qvl_core.planner.job import COMPONENTS, Job
from qvl_core.planner.plan import Plan, make_plan
from qvl_core.planner.splits import Split, SplitSearch

# A micro batch larger than this gains nothing that a plan could see.
LARGEST_MICRO_BATCH = 16
MOST_DEVICES = 65_536


@dataclass(frozen=True, kw_only=True)
class Choice:
    """All of a plan but its stage lists."""

    tp: int
    pp: int
    dp: int
    micro_batch: int
    recompute: frozenset[Component]
    zero1: bool


@dataclass(frozen=True, kw_only=True)
class Shortfall:
    """What would fit where nothing does: the plan that takes least on these devices, and the fewest devices."""

    least: Plan | None
    fewest: Plan | None


def choices(job: Job, devices: int) -> Iterator[Choice]:
    """Yield every choice for so many devices, whatever it takes of memory."""
    layers = job.spec.vision.depth + job.spec.text.num_layers
    if job.task != "train":
        layers = 1 + job.spec.text.num_layers
    for tp in legal_tensor_degrees(job.spec):
        if devices % tp:
            continue
        for pp in _divisors(devices // tp):
            dp = devices // tp // pp
            if pp > layers or (job.task == "train" and job.global_batch % dp):
                continue
            for micro_batch in _micro_batches(job, dp):
                for recompute in _recomputations(job):
                    yield Choice(
                        tp=tp,
                        pp=pp,
                        dp=dp,
                        micro_batch=micro_batch,
                        recompute=recompute,
                        # It only ever saves: the same bytes travel, and a replica updates a part.
                        zero1=job.task == "train" and dp > 1,
                    )


def search(job: Job, devices: int, memory_bytes: float, *, top: int = 5) -> tuple[Plan, ...]:
    """Give the `top` fastest plans that fit, best first; none where nothing fits."""
    bounded: list[tuple[float, int, Choice, SplitSearch]] = []
    for choice in choices(job, devices):
        splits = splits_of(job, choice)
        bounded.append((_rank(job, choice, splits.least_step()), len(bounded), choice, splits))
    bounded.sort(key=lambda entry: entry[:2])
    found: list[tuple[float, float, Plan]] = []
    smallest = _smallest_micro_batches(bounded)
    is_hopeless: dict[Choice, bool] = {}
    for bound, _, choice, splits in bounded:
        if len(found) >= top and bound > found[top - 1][0]:
            break
        # A larger micro batch never takes less: where not even the smallest fits, none does.
        least = replace(choice, micro_batch=1)
        if least not in is_hopeless:
            is_hopeless[least] = smallest[least].best(memory_bytes, any_will_do=True) is None
        split = None if is_hopeless[least] else splits.best(memory_bytes)
        if split is None:
            continue
        plan = plan_of(job, choice, split)
        found.append((1 / plan.samples_per_s, plan.memory, plan))
        found.sort(key=lambda entry: entry[:2])
    return tuple(plan for _, _, plan in found[:top])


def _smallest_micro_batches(bounded: list[tuple[float, int, Choice, SplitSearch]]) -> dict[Choice, SplitSearch]:
    """Give the search with the smallest micro batch for each choice, which is named with a micro batch of 1."""
    ordered = sorted(bounded, key=lambda entry: -entry[2].micro_batch)
    return {replace(choice, micro_batch=1): splits for _, _, choice, splits in ordered}


def shortfall(job: Job, devices: int, memory_bytes: float) -> Shortfall:
    """Find what would fit where nothing does: how much memory, or how many devices."""
    size, smallest = inf, None
    searches = [(splits_of(job, choice), choice) for choice in _smallest(job, devices)]
    for splits, choice in sorted(searches, key=lambda pair: pair[0].least_state()):
        # What saves less than a thousandth is not worth looking for.
        found = splits.least_bytes(size * (1 - 1e-3))
        if found is not None:
            size, smallest = found[0], (choice, found[1])
    least = plan_of(job, *smallest) if smallest else None
    return Shortfall(least=least, fewest=_fewest(job, devices, memory_bytes))


def _fewest(job: Job, devices: int, memory_bytes: float) -> Plan | None:
    """Give a plan for the fewest devices that do; of more than a machine's, whole machines, 32 sizes at most."""
    machine = job.device.devices_per_node
    sizes = sorted({start << more for start in (devices, machine) for more in range(16)})
    larger = (size for size in sizes if devices < size <= MOST_DEVICES)
    found = next((plan for size in larger if (plan := _fitting(job, size, memory_bytes)) is not None), None)
    if found is None:
        return None
    alone = Choice(tp=1, pp=1, dp=1, micro_batch=1, recompute=frozenset(), zero1=False)
    # No layout holds less in all: cutting copies some, and replicas all weights.
    first = max(devices + 1, ceil(splits_of(job, alone).least_state() / memory_bytes))
    between = [size for size in range(first, found.layout.world_size) if size <= machine or not size % machine]
    some = between[:: max(1, -(-len(between) // 32))]
    return next((plan for size in some if (plan := _fitting(job, size, memory_bytes)) is not None), found)


def _fitting(job: Job, devices: int, memory_bytes: float) -> Plan | None:
    """Give a plan for so many devices that fits, the fastest of those that take least; None where none does."""
    fitting = (
        plan_of(job, choice, split)
        for choice in _smallest(job, devices)
        if (split := splits_of(job, choice).best(memory_bytes)) is not None
    )
    return min(fitting, key=lambda plan: plan.step_s, default=None)


def _smallest(job: Job, devices: int) -> list[Choice]:
    """List the choices that take least: the smallest micro batch, all or nothing recomputed."""
    smallest = 1 if job.task == "train" else job.batch
    found = [choice for choice in choices(job, devices) if choice.micro_batch == smallest]
    fullest = max((len(choice.recompute) for choice in found), default=0)
    return [choice for choice in found if len(choice.recompute) in (0, fullest)]


def splits_of(job: Job, choice: Choice) -> SplitSearch:
    """Give the search for the stage lists of a choice."""
    return SplitSearch(
        job,
        tp=choice.tp,
        pp=choice.pp,
        dp=choice.dp,
        micro_batch=choice.micro_batch,
        recompute=choice.recompute,
        zero1=choice.zero1,
    )


def plan_of(job: Job, choice: Choice, split: Split) -> Plan:
    """Give the plan of a choice with stage lists."""
    layout = Layout(vision_stages=split.vision, text_stages=split.text, tp=choice.tp, pp=choice.pp, dp=choice.dp)
    return make_plan(job, layout, recompute=choice.recompute, micro_batch=choice.micro_batch, zero1=choice.zero1)


def _rank(job: Job, choice: Choice, step_s: float) -> float:
    """Give seconds a sample: what plans are compared by."""
    return step_s / (job.global_batch if job.task == "train" else job.batch * choice.dp)


def _divisors(number: int) -> list[int]:
    small = [one for one in range(1, int(number**0.5) + 1) if number % one == 0]
    return sorted({*small, *(number // one for one in small)})


def _micro_batches(job: Job, dp: int) -> list[int]:
    if job.task != "train":
        return [job.batch]
    return [size for size in _divisors(job.global_batch // dp) if size <= LARGEST_MICRO_BATCH]


def _recomputations(job: Job) -> list[frozenset[Component]]:
    """List what may be recomputed: nothing, all that a gradient passes through, the text alone, or all but it."""
    reached = frozenset(component for component in COMPONENTS if job.task == "train" and job.is_reached(component))
    found = [frozenset[Component]()]
    for one in (frozenset[Component]({"text"}), reached - {"text"}, reached):
        if one and one <= reached and one not in found:
            found.append(one)
    return found
