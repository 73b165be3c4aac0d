"""What is measured of a step: each rank's times, work and memory, and what they come to over all ranks.

A rank's numbers travel with the exchange that a step has anyway. So a step is measured from the exchange of the step
before to its own: the time of an update is in the row of the next step.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from qvl_core.batch import Batch
from qvl_core.model_flops import batch_flops
from qvl_core.parallel.clock import ideal_bubble
from qvl_core.parallel.mesh import Coordinate, coordinate_of
from qvl_core.parallel.step_clock import StepClock, StepTimes
from qvl_core.params import Component
from qvl_core.specs.model_spec import ModelSpec

from qvl_train.memory import device_peak_gib, host_memory_gib, host_peak_gib

if TYPE_CHECKING:
    from qvl_core.parallel.world import Json, World

PARTS = ("data_s", "forward_s", "backward_s", "communication_s", "waiting_s", "optimizer_s", "other_s")
"""What a step's time is split into; they add up to it."""
TERA = 1e12


@dataclass(frozen=True, kw_only=True)
class Measures:
    """A step over all ranks: the numbers of its row (keys as in `metrics.jsonl`), and each rank's computing time."""

    numbers: Mapping[str, float | int]
    compute_s: tuple[float, ...]


class Meter:
    """A rank's part of the measuring. `clock` runs from the making of the meter."""

    def __init__(
        self,
        world: World,
        spec: ModelSpec,
        *,
        freeze: Collection[Component] = (),
        adapted: Collection[Component] = (),
        peak_tflops: float | None = None,
        padded_tokens: Callable[[Batch], int] = lambda batch: batch.tokens,
    ) -> None:
        """`peak_tflops` is that of one device. `padded_tokens` tells how many rows the matrix products really have."""
        self.clock = StepClock(world.times)
        self._layout = world.layout
        self._spec = spec
        self._freeze, self._adapted = tuple(freeze), tuple(adapted)
        self._peak_tflops = peak_tflops
        self._padded_tokens = padded_tokens

    def take(self, micro_batches: Sequence[Batch]) -> dict[str, Json]:
        """Give what this rank tells the others of the step. Counts are those of its replica."""
        flops = [batch_flops(batch, self._spec, freeze=self._freeze, adapted=self._adapted) for batch in micro_batches]
        resident = host_memory_gib()
        return {
            "times": asdict(self.clock.take()),
            "micro_batches": len(micro_batches),
            "padded_tokens": sum(map(self._padded_tokens, micro_batches)),
            "flops_text": sum(one.text for one in flops),
            "flops_vision": sum(one.vision for one in flops),
            "memory_gib": round(resident, 4),
            # The system counts the peak a little late.
            "memory_peak_gib": round(max(host_peak_gib(), resident), 4),
            "device_memory_peak_gib": device_peak_gib(),
        }

    def summary(self, found: Sequence[Mapping[str, Any]], *, tokens: int, samples: int) -> Measures:
        """Put together what the ranks told, in rank order; `tokens` and `samples` are those of the step."""
        places = [coordinate_of(rank, self._layout) for rank in range(len(found))]
        times = [StepTimes(**one["times"]) for one in found]
        replicas = [one for one, place in zip(found, places, strict=True) if place.tp == 0 and place.pp == 0]
        step_s = statistics.fmean(one.total_s for one in times)
        padded = sum(one["padded_tokens"] for one in replicas)
        return Measures(
            numbers={
                **_split(times),
                "tokens_per_s": round(tokens / step_s, 1),
                "padded_tokens": padded,
                "padded_tokens_per_s": round(padded / step_s, 1),
                "samples_per_s": round(samples / step_s, 3),
                **_bubble(times, places, self._layout.pp, found[0]["micro_batches"]),
                **self._work(replicas, step_s),
                **_largest("memory_gib", found),
                **_largest("memory_peak_gib", found),
                **_largest("device_memory_peak_gib", found),
            },
            compute_s=tuple(one.compute_s for one in times),
        )

    def _work(self, replicas: Sequence[Mapping[str, Any]], step_s: float) -> dict[str, float]:
        text, vision = (sum(one[key] for one in replicas) / TERA for key in ("flops_text", "flops_vision"))
        rate = (text + vision) / step_s
        numbers = {"model_tflops_text": text, "model_tflops_vision": vision, "tflops_per_s": rate}
        if self._peak_tflops is not None:
            numbers["mfu"] = rate / (self._peak_tflops * self._layout.world_size)
        return {key: float(f"{value:.6g}") for key, value in numbers.items()}


def _split(times: Sequence[StepTimes]) -> dict[str, float]:
    """Give the mean of each part over the ranks, and the largest where there are several."""
    numbers = {"step_time_s": round(statistics.fmean(one.total_s for one in times), 6)}
    for key in (*PARTS, "compute_s"):
        numbers[key] = round(statistics.fmean(getattr(one, key) for one in times), 6)
    if len(times) > 1:
        for key in (*PARTS, "compute_s"):
            numbers[f"max_{key}"] = round(max(getattr(one, key) for one in times), 6)
        numbers["slowest_rank"] = max(range(len(times)), key=lambda rank: times[rank].compute_s)
    return numbers


def _bubble(
    times: Sequence[StepTimes], places: Sequence[Coordinate], stages: int, micro_batches: int
) -> dict[str, float]:
    """Give the share of the pipelines' time in which a stage does nothing but exchange with its neighbours.

    A stage that is done sooner than the last of its pipeline is idle until then: the gradients' sum waits for that one.
    """
    if stages == 1:
        return {}
    longest: dict[tuple[int, int], float] = {}
    for one, place in zip(times, places, strict=True):
        key = (place.dp, place.tp)
        longest[key] = max(longest.get(key, 0.0), one.pipeline_s)
    idle = sum(
        one.stages_s + longest[place.dp, place.tp] - one.pipeline_s for one, place in zip(times, places, strict=True)
    )
    return {
        "bubble": round(idle / max(1e-9, stages * sum(longest.values())), 4),
        "ideal_bubble": round(ideal_bubble(stages, micro_batches), 4),
    }


def _largest(key: str, found: Sequence[Mapping[str, Any]]) -> dict[str, float | int]:
    """Give the largest value over the ranks and, where there are several, whose it is."""
    values = [one[key] for one in found]
    if any(value is None for value in values):
        return {}
    rank = max(range(len(values)), key=values.__getitem__)
    numbers: dict[str, float | int] = {key: round(values[rank], 4)}
    if len(values) > 1:
        numbers[key.replace("_gib", "_rank")] = rank
    return numbers
