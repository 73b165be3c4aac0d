"""The search: every legal tp, pp, dp, micro batch and recomputation on so many devices, with the best split of each.

What is faster is better; of plans equally fast, the one that takes less memory. Time does not depend on how much memory
there is, so with more of it the best plan never gets slower.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf

from qvl_core.layout import Layout
from qvl_core.layout_rules import legal_tensor_degrees
from qvl_core.params import Component
from qvl_core.planner.costs import Choice, SharedCosts
from qvl_core.planner.fewest import LeastMemory, StagesNeeded
from qvl_core.planner.job import COMPONENTS, Job, on_machines
from qvl_core.planner.plan import Plan, make_plan
from qvl_core.planner.splits import Split, SplitSearch

# A micro batch larger than this gains nothing that a plan could see.
LARGEST_MICRO_BATCH = 16
MOST_DEVICES = 65_536
# Choices that are tried for the fewest devices: 1 or 2 milliseconds each.
_MOST_TRIED = 1_000


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


def nearest_devices(job: Job, devices: int) -> int:
    """Give the number of devices nearest to this that some layout makes up; of two as near, the smaller one."""
    sizes = {
        size
        for tp in legal_tensor_degrees(job.spec)
        for pp in range(1, _most_stages(job) + 1)
        for dp in _replicas(job)
        if (size := tp * pp * dp) <= MOST_DEVICES
    }
    return min(sizes, key=lambda size: (abs(size - devices), size))


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
    shared = SharedCosts(job)
    bounded: list[tuple[float, int, Choice, SplitSearch]] = []
    for choice in choices(job, devices):
        splits = SplitSearch(shared, choice)
        bounded.append((_rank(job, choice, splits.least_step()), len(bounded), choice, splits))
    bounded.sort(key=lambda entry: entry[:2])
    sizes = _LargestMicroBatches([(choice, splits) for _, _, choice, splits in bounded], memory_bytes)
    found: list[tuple[float, float, int, Choice, Split]] = []
    for bound, number, choice, splits in bounded:
        slowest = found[top - 1][0] if len(found) >= top else inf
        if bound > slowest:
            break
        most_s = slowest * _samples(job, choice) * (1 + 1e-9)
        split = splits.leanest(memory_bytes, most_s) if sizes.has_room(choice) else None
        if split is None:
            continue
        # Times that are equal but for rounding are equal: then memory decides.
        rank = float(f"{_rank(job, choice, split.step_s):.12g}")
        found.append((rank, max(splits.stage_bytes(split)), number, choice, split))
        found = sorted(found, key=lambda entry: entry[:3])[:top]
    return tuple(plan_of(job, choice, split) for _, _, _, choice, split in found)


class _LargestMicroBatches:
    """Knows the largest micro batch that fits with each tp, pp, dp and recomputation: a larger one never takes less."""

    def __init__(self, searches: Sequence[tuple[Choice, SplitSearch]], memory_bytes: float) -> None:
        self._memory_bytes = memory_bytes
        self._largest: dict[Choice, int] = {}
        self._sizes: dict[Choice, list[tuple[int, SplitSearch]]] = {}
        for choice, splits in searches:
            self._sizes.setdefault(replace(choice, micro_batch=1), []).append((choice.micro_batch, splits))

    def has_room(self, choice: Choice) -> bool:
        """Tell whether a choice has a split that fits."""
        key = replace(choice, micro_batch=1)
        if key not in self._largest:
            sizes = sorted(self._sizes[key], key=lambda pair: pair[0])
            low = bisect_left(sizes, True, key=lambda pair: not pair[1].fits(self._memory_bytes))
            self._largest[key] = sizes[low - 1][0] if low else 0
        return choice.micro_batch <= self._largest[key]


def shortfall(job: Job, devices: int, memory_bytes: float) -> Shortfall:
    """Find what would fit where nothing does: how much memory, or how many devices."""
    shared = SharedCosts(job)
    size, smallest = inf, None
    searches = [(SplitSearch(shared, choice), choice) for choice in _least(job, devices)]
    for splits, choice in sorted(searches, key=lambda pair: pair[0].least_memory()):
        # What saves less than a thousandth is not worth looking for.
        found = splits.least_bytes(size * (1 - 1e-3))
        if found is not None:
            size, smallest = found[0], (choice, found[1])
    least = plan_of(job, *smallest) if smallest else None
    fewest, all_tried = _fewest(SharedCosts(replace(job, is_placed=False)) if job.is_placed else shared, memory_bytes)
    return Shortfall(least=least, fewest=fewest, all_tried=all_tried)


def _fewest(shared: SharedCosts, memory_bytes: float) -> tuple[Plan | None, bool]:
    """Give a plan for the fewest devices that do, and whether all smaller numbers were tried: whole machines first.

    Thousands of sizes may come into question: after `_MOST_TRIED` choices only doublings of a machine are left to try.
    """
    job, tried = shared.job, 0
    machine, smallest = job.device.devices_per_node, _smallest_micro_batch(job)
    needed = StagesNeeded(shared, _replicas(job), memory_bytes)
    least: dict[tuple[int, int], int] = {}
    for size, shapes in _sizes(job, LeastMemory(shared, smallest), memory_bytes):
        for tp, pp, dp in shapes:
            if (tp, dp) not in least:
                each = _recomputing(job, tp=tp, pp=pp, dp=dp, micro_batch=smallest)
                least[tp, dp] = min(needed.of(choice) for choice in each)
            if 1 < pp < least[tp, dp]:
                continue
            for choice in _recomputing(job, tp=tp, pp=pp, dp=dp, micro_batch=smallest):
                if pp > 1 and pp < needed.of(choice):
                    continue
                tried += 1
                if SplitSearch(shared, choice).fits(memory_bytes):
                    return _fitting(shared, size, memory_bytes), True
        if tried + needed.looks > _MOST_TRIED:
            doubled = (machine << more for more in range(1, 17) if size < machine << more <= MOST_DEVICES)
            found = (_fitting(shared, more, memory_bytes) for more in doubled)
            return next((plan for plan in found if plan is not None), None), False
    return None, True


def _sizes(job: Job, bounds: LeastMemory, memory_bytes: float) -> list[tuple[int, list[tuple[int, int, int]]]]:
    """List numbers of devices with each tp, pp and dp that might fit: up to a machine, whole machines, all others."""
    machine = job.device.devices_per_node
    sizes: dict[int, list[tuple[int, int, int]]] = {}
    for tp in legal_tensor_degrees(job.spec):
        for dp in _replicas(job):
            if tp * dp > MOST_DEVICES:
                break
            for pp in range(bounds.fewest_stages(tp, dp, _most_stages(job), memory_bytes), _most_stages(job) + 1):
                size = tp * pp * dp
                if size > MOST_DEVICES:
                    break
                sizes.setdefault(size, []).append((tp, pp, dp))
    return sorted(sizes.items(), key=lambda pair: (pair[0] > machine and pair[0] % machine > 0, pair[0]))


def _replicas(job: Job) -> list[int]:
    return _divisors(job.global_batch) if job.task == "train" else [1]


def _fitting(shared: SharedCosts, devices: int, memory_bytes: float) -> Plan | None:
    """Give a plan for so many devices that fits, the fastest of those that take least; None where none does."""
    fitting = (
        (split.step_s, number, choice, split)
        for number, choice in enumerate(_least(shared.job, devices))
        if (split := SplitSearch(shared, choice).best(memory_bytes)) is not None
    )
    found = min(fitting, key=lambda entry: entry[:2], default=None)
    return plan_of(shared.job, *found[2:]) if found is not None else None


def _least(job: Job, devices: int) -> list[Choice]:
    """List the choices for so many devices that take least: those with the smallest micro batch."""
    smallest = _smallest_micro_batch(job)
    return [choice for choice in choices(job, devices) if choice.micro_batch == smallest]


def _smallest_micro_batch(job: Job) -> int:
    return 1 if job.task == "train" else job.batch


def plan_of(job: Job, choice: Choice, split: Split) -> Plan:
    """Give the plan of a choice with stage lists, on the machines that suit it."""
    layout = Layout(vision_stages=split.vision, text_stages=split.text, tp=choice.tp, pp=choice.pp, dp=choice.dp)
    placed = on_machines(job, layout.world_size, choice.tp)
    return make_plan(placed, layout, recompute=choice.recompute, micro_batch=choice.micro_batch, zero1=choice.zero1)


def _rank(job: Job, choice: Choice, step_s: float) -> float:
    """Give seconds a sample: what plans are compared by."""
    return step_s / _samples(job, choice)


def _samples(job: Job, choice: Choice) -> int:
    """Count the samples, or answers, of a step."""
    return job.global_batch if job.task == "train" else job.at_once * choice.dp


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
