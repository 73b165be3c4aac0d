"""Run by `test_ranks.py` in four processes: every layout gives every request the tokens of one process.

The argument says which layouts: "even", or "odd" with what else a layout has to stand: few requests, weights that are
not finite, training.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from mindspore import Tensor, ops
from qvl_core.answer_sizes import BLOCK
from qvl_core.batch import IGNORE
from qvl_core.errors import RunError
from qvl_core.generate import GenerationOptions
from qvl_core.generate.answer_all import answer_all
from qvl_core.generate.engine import Engine
from qvl_core.generate.request import Request
from qvl_core.generate.scheduler import Scheduler
from qvl_core.layout import Layout
from qvl_core.model import Qwen25VL, flatten_prompt
from qvl_core.parallel.connect import connect
from qvl_core.parallel.pipeline import Pipeline
from qvl_core.parallel.stage import build_stage
from qvl_core.parallel.world import World
from qvl_core.params import parameter_table
from qvl_core.specs.model_spec import ModelSpec
from qvl_core.weights.sharding import cut
from small_models import TIED, UNTIED, image_prompt, lively_model, lively_weights, text_prompt

EVEN: list[tuple[ModelSpec, Layout]] = [
    (TIED, Layout(tp=2, pp=2, vision_stages=(2, 0), text_stages=(1, 1))),
    (TIED, Layout(tp=2, dp=2, vision_stages=(2,), text_stages=(2,))),
    (TIED, Layout(pp=4, vision_stages=(1, 1, 0, 0), text_stages=(0, 0, 1, 1))),
    (UNTIED, Layout(pp=2, dp=2, vision_stages=(3, 0), text_stages=(1, 2))),
    (UNTIED, Layout(pp=4, vision_stages=(3, 0, 0, 0), text_stages=(0, 1, 1, 1))),
    (UNTIED, Layout(tp=2, pp=2, vision_stages=(3, 0), text_stages=(0, 3))),
]
ODD: list[tuple[ModelSpec, Layout]] = [
    (TIED, Layout(dp=4, vision_stages=(2,), text_stages=(2,))),
    (TIED, Layout(tp=2, pp=2, vision_stages=(1, 1), text_stages=(0, 2))),
    (UNTIED, Layout(pp=4, vision_stages=(1, 1, 1, 0), text_stages=(0, 0, 0, 3))),
    (UNTIED, Layout(pp=2, dp=2, vision_stages=(3, 0), text_stages=(2, 1))),
]
OPTIONS = (
    GenerationOptions(max_new_tokens=12),
    GenerationOptions(max_new_tokens=7, repetition_penalty=1.4),
    GenerationOptions(max_new_tokens=9, do_sample=True, temperature=1.5, seed=4, eos_token_id=(3, 40)),
)


def requests(spec: ModelSpec) -> list[Request]:
    """Give requests of every kind, with media and without, in an order in which prompts run together and alone."""
    prompts = [text_prompt(5), text_prompt(9, seed=1), image_prompt(spec), image_prompt(spec, 2, 5, text=1, seed=3)]
    return [
        Request(
            prompt=flatten_prompt(spec, **prompts[number % 4]).batch,
            options=replace(OPTIONS[number % 3], seed=number),
            request_id=str(number),
        )
        for number in range(10)
    ]


def answers(scheduler: Scheduler, asked: list[Request]) -> dict[str, list[int]]:
    """Ask one after another while answers are under way; take the sixth back after it has begun."""
    found: dict[str, list[int]] = {request.request_id: [] for request in asked}
    left = list(asked)
    steps = 0
    while left or not scheduler.is_idle:
        for _ in range(1 + steps % 2):
            if left:
                scheduler.submit(left.pop(0))
        for event in scheduler.step():
            if event.finished != "cancelled":
                found[event.request_id].append(event.token)
        if len(found.get("5", ())) == 2:
            scheduler.cancel("5")
        steps += 1
    return found


class OneProcess:
    """What one process answers: the first rank is that process, and tells the others, once for a model."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], dict[str, list[int]]] = {}

    def answers(self, spec: ModelSpec, world: World) -> dict[str, list[int]]:
        """Ask while answers are under way."""
        return self._told(world, (spec.name, "under way"), lambda: answers(_scheduler_of_one(spec), requests(spec)))

    def answers_all(self, spec: ModelSpec, world: World, count: int) -> dict[str, list[int]]:
        """Ask the first `count` at once."""

        def answer() -> dict[str, list[int]]:
            return answer_all(lively_model(spec), requests(spec)[:count], slots=2, max_tokens=2 * BLOCK)

        return self._told(world, (spec.name, str(count)), answer)

    def _told(
        self, world: World, key: tuple[str, str], answer: Callable[[], dict[str, list[int]]]
    ) -> dict[str, list[int]]:
        if key not in self._known:
            told: Any = world.exchange(answer() if world.rank == 0 else None)[0]
            self._known[key] = told
        return self._known[key]


def _scheduler_of_one(spec: ModelSpec) -> Scheduler:
    return Scheduler(lively_model(spec), slots=10, max_tokens=10 * BLOCK)


def part_of(spec: ModelSpec, world: World) -> Qwen25VL:
    """Build the rank's part of the lively model."""

    def local() -> Iterator[tuple[str, np.ndarray]]:
        held = {row.name: row for row in parameter_table(spec, world.layout) if world.place.pp in row.stages}
        for name, array in lively_weights(spec):
            if name in held:
                yield name, cut(array, held[name].shard, tp=world.layout.tp, rank=world.place.tp)

    return build_stage(spec, world, local())


def check_few(model: Qwen25VL, spec: ModelSpec, world: World, single: OneProcess) -> None:
    """Fewer requests than replicas, down to none."""
    for count in (2, 1, 0):
        whole = requests(spec)[:count]
        alone = single.answers_all(spec, world, count)
        assert answer_all(model, whole, slots=2, max_tokens=2 * BLOCK, world=world) == alone, (world.layout, count)


def check_not_finite(model: Qwen25VL, spec: ModelSpec, world: World, single: OneProcess) -> None:
    """Only the last stage sees the scores; every rank of the replica fails, and the next scheduler answers."""
    norm = model.model.norm if model.model is not None else None
    held = None if norm is None else norm.weight.asnumpy().copy()
    if norm is not None:
        norm.weight.set_data(Tensor(np.full_like(held, np.nan)))
    scheduler = Scheduler(model, slots=1, max_tokens=BLOCK, engine=Engine(model, 1, BLOCK, world=world))
    scheduler.submit(requests(spec)[2])
    with pytest.raises(RunError, match="request 2: the scores of new token 0 are NaN or infinite"):
        scheduler.step()
    if norm is not None:
        norm.weight.set_data(Tensor(held))
    check_few(model, spec, world, single)


def check_training(spec: ModelSpec, world: World) -> None:
    """Train with and without answers between the steps: the weights are the same to the bit."""
    prompt = flatten_prompt(spec, **image_prompt(spec)).batch
    batch = replace(prompt, labels=np.append(prompt.input_ids[1:], IGNORE).astype(np.int32))
    weights = [np.full(len(batch.loss_rows), 0.1, np.float32)]
    trained, answers = [], []
    for asks in (False, True):
        model = part_of(spec, world)
        pipeline = Pipeline(model, world, recompute="full")
        for step in range(1, 4):
            if asks:
                answers.append(answer_all(model, requests(spec)[:3], slots=2, max_tokens=2 * BLOCK, world=world))
            pipeline.step = step
            _, gradients = pipeline.gradients([batch], weights)
            for parameter, gradient in zip(pipeline.trainable, gradients, strict=True):
                ops.assign(parameter, parameter - 0.1 * gradient)
        trained.append({name: array.copy() for name, array in model.named_arrays()})
    for name, array in trained[0].items():
        np.testing.assert_array_equal(trained[1][name], array, err_msg=name)
    assert answers[0] != answers[-1], "training changes no answer here"
    assert all(found == answers for found in world.exchange(answers))


def main() -> None:
    """Go through the layouts."""
    # More ranks than cores: MindSpore's threads of one fight with those of the others over all of them.
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["OMPI_COMM_WORLD_RANK"]) % len(cores)]})
    is_odd = sys.argv[1] == "odd"
    single = OneProcess()
    for spec, layout in ODD if is_odd else EVEN:
        world = connect(layout, spec)
        expected = single.answers(spec, world)
        model = part_of(spec, world)
        engine = Engine(model, 3, 3 * BLOCK, world=world, patience=4)
        asked = [one for one in requests(spec) if int(one.request_id) % layout.dp == world.place.dp]
        found = answers(Scheduler(model, slots=3, max_tokens=3 * BLOCK, engine=engine), asked)
        for name, tokens in found.items():
            assert tokens == expected[name], (spec.name, layout, name, tokens, expected[name])
        whole = requests(spec)[:5]
        alone = single.answers_all(spec, world, len(whole))
        together = answer_all(model, whole, slots=2, max_tokens=2 * BLOCK, world=world)
        assert together == alone, (spec.name, layout, together, alone)
        if is_odd:
            check_few(model, spec, world, single)
            check_not_finite(model, spec, world, single)
            check_training(spec, world)
        world.close()
    print(f"rank {world.rank} held")


if __name__ == "__main__":
    main()
