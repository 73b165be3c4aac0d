"""Bytes and seconds of stages of one choice of a plan, for the search: each kind of stage is counted once.

What makes a kind is the layers, and whether a stage is the first, the last, the first with text, and past vision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qvl_core.parallel.schedule import micro_batches_in_flight
from qvl_core.params import Component
from qvl_core.planner.collectives import Links, links_of
from qvl_core.planner.held import Held, held_of, held_parts
from qvl_core.planner.job import Job, each_machine
from qvl_core.planner.memory import PartMemory
from qvl_core.planner.stage_shape import StageShape
from qvl_core.planner.timing import PartTimes, replica_seconds, update_seconds


@dataclass(frozen=True, kw_only=True)
class Choice:
    """All of a plan but its stage lists."""

    tp: int
    pp: int
    dp: int
    micro_batch: int
    recompute: frozenset[Component]
    zero1: bool


# Vision and text layers; is it the first stage, the first with text, past vision, the last?
_Kind = tuple[int, int, bool, bool, bool, bool]


class SharedCosts:
    """Costs of parts of a job's model that several choices have in common."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.whole = StageShape(
            vision=job.spec.vision.depth,
            text=job.spec.text.num_layers,
            patch_embed=True,
            merger=True,
            embeds=True,
            head=True,
            vision_done=True,
        )
        self._memory: dict[tuple[int, int, int, frozenset[Component], bool], PartMemory] = {}
        self._each: dict[tuple[int, int], int] = {}
        self._times: dict[tuple[int, bool, bool, int, frozenset[Component]], PartTimes] = {}
        self._held: dict[tuple[int, int], Mapping[str, Held]] = {}
        self._made: dict[tuple[object, ...], dict[_Kind, tuple[float, ...]]] = {}

    def memory(self, choice: Choice) -> PartMemory:
        """Give the bytes of parts."""
        key = choice.tp, choice.dp, choice.micro_batch, choice.recompute, choice.zero1
        found = self._memory.get(key)
        if found is None:
            found = self._memory[key] = PartMemory(
                self.job,
                tp=choice.tp,
                dp=choice.dp,
                samples=choice.micro_batch,
                recompute=choice.recompute,
                zero1=choice.zero1,
            )
        return found

    def held(self, choice: Choice, shape: StageShape) -> Held:
        """Give the elements of a stage."""
        key = choice.tp, choice.dp
        parts = self._held.get(key)
        if parts is None:
            parts = self._held[key] = held_parts(self.job.spec, self.job.lora, self.job.alive, *key)
        return held_of(parts, shape)

    def made(self, choice: Choice, communicators: int) -> dict[_Kind, tuple[float, ...]]:
        """Give the sums of kinds of stages that are known, to be added to: they do not depend on pp."""
        key = choice.tp, choice.dp, choice.micro_batch, choice.recompute, choice.zero1, communicators
        return self._made.setdefault(key, {})

    def times(self, choice: Choice) -> PartTimes:
        """Give the seconds of parts; of replicas and stages all that counts is what is on the same machine."""
        links = self.links(choice)
        key = choice.tp, links.tensor, links.stages, choice.micro_batch, choice.recompute
        found = self._times.get(key)
        if found is None:
            found = self._times[key] = PartTimes(
                self.job, tp=choice.tp, links=links, samples=choice.micro_batch, recompute=choice.recompute
            )
        return found

    def links(self, choice: Choice) -> Links:
        """Give what is near on the machines of a choice."""
        devices = choice.tp * choice.pp * choice.dp
        key = devices, choice.tp
        each = self._each.get(key)
        if each is None:
            each = self._each[key] = each_machine(self.job, *key)
        return links_of(each, tp=choice.tp, pp=choice.pp, dp=choice.dp)


class StageCosts:
    """Costs of the stages of one choice."""

    def __init__(self, shared: SharedCosts, choice: Choice) -> None:
        self._shared, self._job, self._choice = shared, shared.job, choice
        self.times, self._links = shared.times(choice), shared.links(choice)
        self.communicators = 1 + (choice.tp > 1) + (choice.pp > 1) + (choice.dp > 1)
        per_step = choice.micro_batch * choice.dp
        self.micro_batches = max(1, self._job.global_batch // per_step) if self._job.task == "train" else 1
        self._made = shared.made(choice, self.communicators)
        self._in_flight = [micro_batches_in_flight(stage, choice.pp, self.micro_batches) for stage in range(choice.pp)]
        self._shapes: dict[_Kind, StageShape] = {}
        self._seconds: dict[_Kind, tuple[float, float]] = {}

    @property
    def whole(self) -> tuple[float, float]:
        """Give the seconds of a stage with all of the model that is first and last."""
        return self.seconds_of(self._shared.whole, is_first=True, is_last=True)

    @property
    def memory(self) -> PartMemory:
        """Give the bytes of parts: many choices are never asked."""
        return self._shared.memory(self._choice)

    def size(self, vision: int, text: int, stage: int, *, embeds: bool = False, done: bool = True) -> float:
        """Give bytes of a rank; `embeds`: text begins there, `done`: no vision comes after."""
        last = self._choice.pp - 1
        key = vision, text, stage == 0, embeds, done, stage == last
        made = self._made.get(key) or self._make(key)
        model, working, each, cache, communication, base, evaluating = made
        in_flight = self._in_flight[stage]
        if self._job.engine.tape:
            waiting = in_flight * each
        else:
            waiting = self.memory.waiting(self._shape(key), in_flight, is_first=stage == 0)
        # In the order of MemoryParts.total: equal to the last bit.
        training = model + (working + waiting) + cache + communication + base
        return training + max(0.0, evaluating - training)

    def _make(self, key: _Kind) -> tuple[float, ...]:
        shape = self._shape(key)
        parts = self.memory.without_waiting(shape, is_last=key[-1], communicators=self.communicators)
        made = self._made[key] = (
            parts.weights + parts.gradients + parts.new_gradients + parts.master + parts.moments,
            parts.vision + parts.merger + parts.text + parts.logits,
            self.memory.waiting(shape, 1, is_first=key[2]),
            parts.kv_cache,
            parts.communication,
            parts.base,
            self.memory.evaluating(shape, parts, is_last=key[-1]),
        )
        return made

    def seconds(
        self, vision: int, text: int, stage: int, *, embeds: bool = False, done: bool = True
    ) -> tuple[float, float]:
        """Give the seconds of one micro batch, and of all but one of them with the end of the step."""
        key = vision, text, stage == 0, embeds, done, stage == self._choice.pp - 1
        found = self._seconds.get(key)
        if found is None:
            found = self._seconds[key] = self.seconds_of(self._shape(key), is_first=key[2], is_last=key[-1])
        return found

    def seconds_of(self, shape: StageShape, *, is_first: bool, is_last: bool) -> tuple[float, float]:
        """Give the same of a shape."""
        job, choice, held = self._job, self._choice, self._shared.held(self._choice, shape)
        time = self.times.seconds(shape, held, is_first=is_first, is_last=is_last)
        if job.task != "train":
            return time + self.times.answers(shape).total, 0.0
        end = 0.0
        if held.trained:
            end = replica_seconds(job, held, dp=choice.dp, near=self._links.replicas, zero1=choice.zero1)
            end += update_seconds(job, held, zero1=choice.zero1)
        return time, (self.micro_batches - 1) * time + end

    def _shape(self, key: _Kind) -> StageShape:
        found = self._shapes.get(key)
        if found is None:
            vision, text, is_first, embeds, done, is_last = key
            found = self._shapes[key] = StageShape(
                vision=vision,
                text=text,
                patch_embed=is_first,
                merger=vision > 0 and done,
                embeds=embeds,
                head=is_last and text > 0,
                vision_done=done,
            )
        return found
