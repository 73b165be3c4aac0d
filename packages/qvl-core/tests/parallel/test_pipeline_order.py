"""The pipeline never locks up, also on an engine whose sends wait for their receiver, and runs what it should.

The stages are threads, the model is a stand-in without weights: what is looked at is who sends what to whom, and when.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import replace
from queue import Queue
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mindspore", reason="the pipeline differentiates with mindspore")

from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Tensor
from qvl_core.batch import IGNORE, Batch
from qvl_core.layout import Layout
from qvl_core.parallel.mesh import Coordinate
from qvl_core.parallel.pipeline import Pipeline, running_order
from qvl_core.params import parameter_table
from qvl_core.specs import load_spec
from qvl_core.stage_part import flow_after, stage_part

SPEC = load_spec("qwen2.5-vl-tiny")
# Nothing takes as long; what waits for ever ends.
LIMIT_S = 180


class RendezvousWorld:
    """Sends return when the message has been taken; shapes are checked."""

    def __init__(self, layout: Layout, stage: int, trained: dict[int, list[str]], channels: Any) -> None:
        self.layout = layout
        self.place = Coordinate(pp=stage, dp=0, tp=0)
        self._stage = stage
        self._trained = trained
        self._channels = channels

    def exchange(self, value: Any) -> list[Any]:
        assert value == sorted(self._trained[self._stage])
        return [sorted(self._trained[stage]) for stage in range(self.layout.pp)]

    def send(self, x: Tensor, stage: int) -> None:
        self._put(x, stage).get(timeout=LIMIT_S)

    def receive(self, shape: tuple[int, ...], dtype: str, stage: int) -> Tensor:
        x, taken = self._channels[stage, self._stage].get(timeout=LIMIT_S)
        assert tuple(x.shape) == shape
        taken.put(None)
        return x

    def swap(self, x: Tensor, shape: tuple[int, ...], dtype: str, stage: int) -> Tensor:
        taken = self._put(x, stage)
        received = self.receive(shape, dtype, stage)
        taken.get(timeout=LIMIT_S)
        return received

    def finish_sends(self) -> None:
        pass

    def _put(self, x: Tensor, stage: int) -> Queue[None]:
        taken: Queue[None] = Queue()
        self._channels[self._stage, stage].put((x, taken))
        return taken


class StandIn:
    """A stage that gives zeros of the right shape and notes what it was asked for."""

    def __init__(self, layout: Layout, stage: int, trained: list[str]) -> None:
        self.spec, self.dtype = SPEC, "float32"
        self.part = stage_part(layout, stage)
        self.table, self.dropout = parameter_table(SPEC), None
        self._flow = flow_after(layout, stage)
        self._trained = trained
        self.seen: list[str] = []

    def recompute(self, components: Any) -> None:
        pass

    def named_parameters(self) -> dict[str, Any]:
        names = {
            "vision": "visual.blocks.0.norm1.weight",
            "merger": "visual.merger.ln_q.weight",
            "text": "model.norm.weight",
        }
        return {names[one]: SimpleNamespace(name=names[one], requires_grad=True, shape=(4,)) for one in self._trained}

    def plan(self, batch: Batch) -> Any:
        return StandInPlan(batch)

    def see(self, plan: Any, x: Tensor | None) -> Tensor | None:
        if not self.part.vision_layers or not len(plan.batch.patches):
            return x
        patches = len(plan.batch.patches)
        shape = (patches // 4, SPEC.vision.out_hidden_size) if self.part.merger else (patches, SPEC.vision.hidden_size)
        return Tensor(np.zeros(shape, np.float32))

    def read(self, plan: Any, x: Tensor | None) -> Tensor | None:
        self.seen.append(plan.batch.sample_ids[0])
        if not self.part.text_layers:
            return x
        return Tensor(np.zeros((plan.batch.tokens, SPEC.text.hidden_size), np.float32))

    def advance(self, plan: Any, x: Tensor | None) -> Tensor | None:
        return self.read(plan, self.see(plan, x))

    def losses_of(self, hidden: Tensor, plan: Any) -> Tensor:
        return Tensor(np.ones(len(plan.batch.loss_rows), np.float32))


class StandInPlan:
    """The batch itself."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def without_vision(self) -> StandInPlan:
        return self


def make_batch(number: int, tokens: int, squares: int) -> Batch:
    grids = np.array([[1, 2, 2 * squares]] if squares else np.zeros((0, 3)), np.int32).reshape(-1, 3)
    labels = np.full(tokens, IGNORE, np.int32)
    labels[0] = 1
    return Batch(
        input_ids=np.zeros(tokens, np.int32),
        position_ids=np.zeros((3, tokens), np.int32),
        sequence_lengths=(tokens,),
        labels=labels,
        patches=np.zeros((4 * squares, SPEC.vision.patch_dim), np.float32),
        grids=grids,
        sample_ids=(str(number),),
    )


def run(layout: Layout, trained: dict[int, list[str]], batches: list[Batch]) -> list[tuple[float, int]]:
    """Run one step on every stage at once; give (loss, gradients) of each. Fails where a stage does not come back."""
    channels: Any = defaultdict(Queue)
    for stage in range(layout.pp):
        for other in (stage - 1, stage + 1):
            channels[stage, other]  # made before the threads: a defaultdict is not safe among them
    results: dict[int, Any] = {}

    def work(stage: int) -> None:
        try:
            world = RendezvousWorld(layout, stage, trained, channels)
            made = Pipeline(StandIn(layout, stage, trained[stage]), world)  # type: ignore[arg-type]
            made._differentiate = lambda held, seed: (  # type: ignore[method-assign]
                Tensor(np.float32(1.0)),
                Tensor(np.zeros(held.x.shape, np.float32)) if held.is_wanted else None,
                [Tensor(np.ones(4, np.float32)) for _ in made.trainable],
            )
            weights = [np.ones(1, np.float32) for _ in batches]
            results[stage] = made.gradients(batches, weights)
        except BaseException as error:
            results[stage] = error

    threads = [threading.Thread(target=work, args=(stage,), daemon=True) for stage in range(layout.pp)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * LIMIT_S)
    for stage in range(layout.pp):
        assert stage in results, f"stage {stage} never came back"
        if isinstance(results[stage], BaseException):
            raise results[stage]
    return [(loss, len(found)) for loss, found in (results[stage] for stage in range(layout.pp))]


LAYOUTS = [
    ((4, 0), (1, 3)),
    ((2, 2), (0, 4)),
    ((2, 2, 0), (0, 1, 3)),
    ((1, 1, 2, 0, 0), (0, 0, 1, 1, 2)),
]


@pytest.mark.parametrize("freeze", [(), ("vision", "merger"), ("text",), ("vision",), ("vision", "merger", "text")])
@pytest.mark.parametrize(("vision", "text"), LAYOUTS)
@settings(max_examples=12, deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(2, 9), st.integers(0, 3)), min_size=1, max_size=9))
def test_no_stage_waits_for_ever_when_sends_wait(
    vision: tuple[int, ...], text: tuple[int, ...], freeze: tuple[str, ...], sizes: list[tuple[int, int]]
) -> None:
    layout = Layout(pp=len(vision), vision_stages=vision, text_stages=text)
    trained = {}
    for stage in range(layout.pp):
        part = stage_part(layout, stage)
        held = {"vision": bool(part.vision_layers), "merger": part.merger, "text": part.head}
        trained[stage] = [name for name, is_held in held.items() if is_held and name not in freeze]
    batches = [make_batch(number, *size) for number, size in enumerate(sizes)]
    results = run(layout, trained, batches)
    assert [count for _, count in results] == [len(trained[stage]) for stage in range(layout.pp)]
    assert [loss for loss, _ in results[:-1]] == [0.0] * (layout.pp - 1)
    assert results[-1][0] == len(batches)


def test_micro_batches_run_by_size_and_equal_ones_in_their_order() -> None:
    sizes = [(5, 1), (3, 0), (5, 0), (3, 0), (9, 0)]
    batches = [make_batch(number, *size) for number, size in enumerate(sizes)]
    assert running_order(batches) == [1, 3, 2, 0, 4]
    # Sums of losses and gradients go by this order: it must not change where features are known.
    assert running_order([with_features(batch) for batch in batches]) == [1, 3, 2, 0, 4]


def with_features(batch: Batch) -> Batch:
    units = len(batch.patches) // 4
    features = np.zeros((units, SPEC.vision.out_hidden_size), np.float32) if units else None
    return replace(batch, patches=batch.patches[:0], features=features)


@pytest.mark.parametrize(("vision", "text"), LAYOUTS)
def test_known_features_travel_nowhere(vision: tuple[int, ...], text: tuple[int, ...]) -> None:
    layout = Layout(pp=len(vision), vision_stages=vision, text_stages=text)
    trained = {stage: ["text"] if stage_part(layout, stage).head else [] for stage in range(layout.pp)}
    batches = [with_features(make_batch(number, 9, number % 3)) for number in range(5)]
    assert run(layout, trained, batches)[-1] == (5.0, 1)
