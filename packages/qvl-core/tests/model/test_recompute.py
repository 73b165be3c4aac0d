"""Computing activations twice changes no gradient, and a pipeline of one stage is the model itself.

Tolerance: the same operations in the same order, so equal to the bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("mindspore", reason="the model needs mindspore")

import mindspore as ms
from mindspore import Tensor
from qvl_core.batch import IGNORE, Batch
from qvl_core.layout import Layout
from qvl_core.model import Qwen25VL, flatten_prompt
from qvl_core.parallel.pipeline import Pipeline
from qvl_core.parallel.single import SingleWorld
from qvl_core.params import Component
from small_models import TIED, Arrays, image_prompt, lively_weights, text_prompt


def labelled(arrays: Arrays) -> Batch:
    inputs = dict(arrays)
    batch = flatten_prompt(TIED, inputs.pop("input_ids"), **inputs).batch
    return dataclasses.replace(batch, labels=np.append(batch.input_ids[1:], IGNORE).astype(np.int32))


BATCHES = [labelled(image_prompt(TIED)), labelled(text_prompt(6)), labelled(image_prompt(TIED, 4, 6, seed=5))]
WEIGHTS = [np.full(len(batch.loss_rows), 0.05, np.float32) for batch in BATCHES]


def pipeline(recompute: str | Sequence[Component] = "none", freeze: Sequence[Component] = ()) -> Pipeline:
    model = Qwen25VL.from_spec(TIED, lively_weights(TIED))
    model.freeze(freeze)
    return Pipeline(model, SingleWorld(Layout.single(TIED)), recompute=recompute)  # type: ignore[arg-type]


def gradients(made: Pipeline, batches: Sequence[Batch] = BATCHES) -> tuple[float, dict[str, np.ndarray]]:
    loss, found = made.gradients(batches, WEIGHTS[: len(batches)])
    return loss, {parameter.name: gradient.asnumpy() for parameter, gradient in zip(made.trainable, found, strict=True)}


def test_one_stage_gives_the_gradients_of_the_model() -> None:
    made = pipeline()
    model = made._model
    loss, found = gradients(made, BATCHES[:1])

    def weighted(plan: object, weights_L: Tensor) -> Tensor:
        return ms.mint.sum(model.token_losses(plan) * weights_L)

    derivative = ms.value_and_grad(weighted, None, made.trainable)
    value, expected = derivative(model.plan(BATCHES[0]), Tensor(WEIGHTS[0]))
    assert loss == float(value.asnumpy())
    assert len(found) == len(expected) == len(model.named_parameters())
    for array, gradient in zip(found.values(), expected, strict=True):
        np.testing.assert_array_equal(array, gradient.asnumpy())


@pytest.mark.parametrize("recompute", ["full", ("vision",), ("merger",), ("text",), ("vision", "text")])
@pytest.mark.parametrize("freeze", [(), ("vision",), ("vision", "merger"), ("text",), ("vision", "text")])
def test_recomputing_changes_no_gradient(recompute: str | Sequence[Component], freeze: Sequence[Component]) -> None:
    expected = gradients(pipeline(freeze=freeze))
    loss, found = gradients(pipeline(recompute, freeze))
    assert loss == expected[0]
    assert found.keys() == expected[1].keys()
    assert any(array.any() for array in found.values())
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[1][name], err_msg=name)


def test_recomputing_runs_the_layers_of_its_components_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    made = pipeline(("text",))
    calls = {"vision": 0, "text": 0}
    for name, layers in (("vision", made._model.visual.blocks), ("text", made._model.model.layers)):
        for layer in layers:
            monkeypatch.setattr(layer, "construct", counted(layer.construct, calls, name))
    gradients(made, BATCHES[:1])
    assert calls == {"vision": TIED.vision.depth, "text": 2 * TIED.text.num_layers}


def counted(call, calls: dict[str, int], name: str):
    def run(*inputs):
        calls[name] += 1
        return call(*inputs)

    return run


def test_a_model_with_nothing_to_train_still_gives_its_loss() -> None:
    made = pipeline(freeze=("vision", "merger", "text"))
    loss, found = gradients(made)
    assert found == {}
    assert loss == pytest.approx(gradients(pipeline())[0], rel=1e-6)


def test_losses_are_those_of_the_rows_with_a_label() -> None:
    made = pipeline()
    for batch in BATCHES:
        losses = made.losses(batch)
        assert losses is not None
        np.testing.assert_array_equal(losses, made._model.token_losses(batch).asnumpy())


class Recorder:
    """A clock that notes what it is told, without repetitions."""

    def __init__(self) -> None:
        self.kinds: list[str] = ["other"]

    def switch(self, kind: str) -> str:
        ended = self.kinds[-1]
        self.kinds += [] if kind == ended else [kind]
        return ended


@pytest.mark.parametrize("freeze", [(), ("vision", "merger")])
def test_the_clock_is_told_when_forward_ends_and_backward_begins(freeze: Sequence[Component]) -> None:
    made = pipeline(freeze=freeze)
    made.clock = recorder = Recorder()  # type: ignore[assignment]
    gradients(made)
    assert recorder.kinds == ["other", *["forward", "backward"] * len(BATCHES), "stages"]


def test_losses_are_those_of_evaluation_and_training_goes_on_after_them() -> None:
    made = pipeline()
    model = made._model
    seen: list[bool] = []
    losses_of = model.losses_of

    def looking(*arguments: object) -> Tensor:
        seen.append(model.training or any(cell.training for _, cell in model.cells_and_names()))
        return losses_of(*arguments)  # type: ignore[arg-type]

    model.losses_of = looking  # type: ignore[method-assign]
    for trains in (True, False):
        model.set_train(trains)
        made.losses(BATCHES[0])
        assert model.training is trains
    assert seen == [False, False]
