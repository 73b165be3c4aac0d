"""The search: every legal tp, pp, dp, micro batch and recomputation on so many devices, with the best split of each.

What is faster is better; of plans equally fast, the one that takes less memory. Time does not depend on how much memory
there is, so with more of it the best plan never gets slower.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf

from qvl_core.layout import Layout
from qvl_core.layout_rules import legal_tensor_degrees
from qvl_core.params import Component
from qvl_core.planner.job import COMPONENTS, Job
from qvl_core.planner.plan import Plan, make_plan
from qvl_core.planner.splits import LeastMemory, Split, SplitSearch

# A micro batch larger than this gains nothing that a plan could see.
LARGEST_MICRO_BATCH = 16
MOST_DEVICES = 65_536
# Choices that are tried for the fewest devices: 1 or 2 milliseconds each.
_MOST_TRIED = 1_000


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
    """What would fit where nothing does: the plan that takes least on these devices, and the fewest devices.

    Where not `all_tried`, fewer than `fewest` might do as well, or some where there is none.
    """

    least: Plan | None
    fewest: Plan | None
    all_tried: bool


def choices(job: Job, devices: int) -> Iterator[Choice]:
    """Yield every choice for so many devices, whatever it takes of memory."""
    layers = _most_stages(job)
    for tp in legal_tensor_degrees(job.spec):
        if devices % tp:
            continue
        for pp in _divisors(devices // tp):
            dp = devices // tp // pp
            if pp > layers or (job.task == "train" and job.global_batch % dp):
                continue
            for micro_batch in _micro_batches(job, dp):
                yield from _recomputing(job, tp=tp, pp=pp, dp=dp, micro_batch=micro_batch)


def _recomputing(job: Job, *, tp: int, pp: int, dp: int, micro_batch: int) -> Iterator[Choice]:
    """Yield the choices of what is recomputed."""
    # ZeRO-1 only ever saves: the same bytes travel, and a replica updates a part.
    zero1 = job.task == "train" and dp > 1
    for recompute in _recomputations(job):
        yield Choice(tp=tp, pp=pp, dp=dp, micro_batch=micro_batch, recompute=recompute, zero1=zero1)


def _most_stages(job: Job) -> int:
    vision = job.spec.vision.depth if job.task == "train" else 1
    return vision + job.spec.text.num_layers


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
    searches = [(splits_of(job, choice), choice) for choice in _least(job, devices)]
    for splits, choice in sorted(searches, key=lambda pair: pair[0].least_memory()):
        # What saves less than a thousandth is not worth looking for.
        found = splits.least_bytes(size * (1 - 1e-3))
        if found is not None:
            size, smallest = found[0], (choice, found[1])
    least = plan_of(job, *smallest) if smallest else None
    fewest, all_tried = _fewest(job, memory_bytes)
    return Shortfall(least=least, fewest=fewest, all_tried=all_tried)


def _fewest(job: Job, memory_bytes: float) -> tuple[Plan | None, bool]:
    """Give a plan for the fewest devices that do, and whether all smaller numbers were tried: whole machines first.

    A thousand sizes may come into question: after `_MOST_TRIED` choices only doublings of a machine are left to try.
    """
    machine, tried = job.device.devices_per_node, 0
    smallest = _smallest_micro_batch(job)
    bounds = LeastMemory(job, smallest)
    for size, shapes in _sizes(job):
        for tp, pp, dp in shapes:
            if bounds.of(tp, pp, dp) > memory_bytes:
                continue
            for choice in _recomputing(job, tp=tp, pp=pp, dp=dp, micro_batch=smallest):
                tried += 1
                if splits_of(job, choice).best(memory_bytes, any_will_do=True) is not None:
                    return _fitting(job, size, memory_bytes), True
        if tried > _MOST_TRIED:
            doubled = (machine << more for more in range(1, 17) if size < machine << more <= MOST_DEVICES)
            found = (_fitting(job, more, memory_bytes) for more in doubled)
            return next((plan for plan in found if plan is not None), None), False
    return None, True


def _sizes(job: Job) -> list[tuple[int, list[tuple[int, int, int]]]]:
    """List numbers of devices with the tp, pp and dp of each: up to a machine, whole machines, then all others."""
    machine = job.device.devices_per_node
    replicas = _divisors(job.global_batch) if job.task == "train" else [1]
    sizes: dict[int, list[tuple[int, int, int]]] = {}
    for tp in legal_tensor_degrees(job.spec):
        for dp in replicas:
            for pp in range(1, _most_stages(job) + 1):
                size = tp * pp * dp
                if size > MOST_DEVICES:
                    break
                sizes.setdefault(size, []).append((tp, pp, dp))
    return sorted(sizes.items(), key=lambda pair: (pair[0] > machine and pair[0] % machine > 0, pair[0]))


def _fitting(job: Job, devices: int, memory_bytes: float) -> Plan | None:
    """Give a plan for so many devices that fits, the fastest of those that take least; None where none does."""
    fitting = (
        plan_of(job, choice, split)
        for choice in _least(job, devices)
        if (split := splits_of(job, choice).best(memory_bytes)) is not None
    )
    return min(fitting, key=lambda plan: plan.step_s, default=None)


def _least(job: Job, devices: int) -> list[Choice]:
    """List the choices for so many devices that take least: those with the smallest micro batch."""
    smallest = _smallest_micro_batch(job)
    return [choice for choice in choices(job, devices) if choice.micro_batch == smallest]


def _smallest_micro_batch(job: Job) -> int:
    return 1 if job.task == "train" else job.batch


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
