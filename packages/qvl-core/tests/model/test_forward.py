"""What goes in together comes out as if it had gone in alone; gradients are those of the loss.

Tolerance: fp32, outputs of order 1; other batch shapes change the order of sums in matmuls, so 2e-5 and not 0.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("mindspore", reason="the model needs mindspore")

import mindspore as ms
from mindspore import Tensor
from qvl_core.batch import IGNORE, Batch
from qvl_core.errors import DataError
from qvl_core.model import Qwen25VL, flatten_prompt
from qvl_core.specs.model_spec import ModelSpec
from small_models import SPECS, TIED, Arrays, image_prompt, lively_model, lively_weights, pad_together, text_prompt

TOLERANCE = 2e-5
by_spec = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)


def logits(spec: ModelSpec, arrays: Arrays) -> np.ndarray:
    return lively_model(spec)(**arrays).asnumpy()


def labelled_batch(spec: ModelSpec, arrays: Arrays, labels: list[int] | None = None) -> Batch:
    """Give the flat batch of a prompt; every token but the last of the batch predicts the next one."""
    inputs = dict(arrays)
    batch = flatten_prompt(spec, inputs.pop("input_ids"), **inputs).batch
    shifted = np.append(batch.input_ids[1:], IGNORE) if labels is None else np.array(labels)
    return dataclasses.replace(batch, labels=shifted.astype(np.int32))


@by_spec
def test_logits_have_the_padded_shape_and_zeros_at_padding(spec: ModelSpec) -> None:
    batch = pad_together([image_prompt(spec), text_prompt(6)])
    result = logits(spec, batch)
    assert result.shape == (*batch["input_ids"].shape, spec.text.vocab_size)
    padding = batch["attention_mask"] == 0
    assert not result[padding].any()
    assert result[~padding].any(axis=-1).all()


@pytest.mark.parametrize("side", ["left", "right"])
@by_spec
def test_a_row_of_a_padded_batch_equals_the_row_alone(spec: ModelSpec, side: str) -> None:
    rows = [image_prompt(spec), text_prompt(6), image_prompt(spec, 2, 5, text=1, seed=3)]
    batch = pad_together(rows, side)
    together = logits(spec, batch)
    for number, row in enumerate(rows):
        alone = logits(spec, row)[0]
        np.testing.assert_allclose(together[number][batch["attention_mask"][number] == 1], alone, atol=TOLERANCE)


@by_spec
def test_packed_segments_have_the_losses_of_separate_samples(spec: ModelSpec) -> None:
    model = lively_model(spec)
    parts = [labelled_batch(spec, arrays) for arrays in (image_prompt(spec), text_prompt(7), image_prompt(spec, 2, 2))]
    packed = Batch(
        input_ids=np.concatenate([part.input_ids for part in parts]),
        position_ids=np.concatenate([part.position_ids for part in parts], axis=1),
        sequence_lengths=tuple(part.tokens for part in parts),
        labels=np.concatenate([part.labels for part in parts]),
        patches=np.concatenate([part.patches for part in parts]),
        grids=np.concatenate([part.grids for part in parts]),
    )
    separate = np.concatenate([model.token_losses(part).asnumpy() for part in parts])
    np.testing.assert_allclose(model.token_losses(packed).asnumpy(), separate, atol=TOLERANCE)


@by_spec
def test_token_losses_are_those_of_the_logits(spec: ModelSpec) -> None:
    arrays = image_prompt(spec)
    batch = labelled_batch(spec, arrays)
    scores = logits(spec, arrays)[0].astype(np.float64)[:-1]
    expected = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(scores)), batch.labels[:-1]]
    losses = lively_model(spec).token_losses(batch).asnumpy()
    assert losses.dtype == np.float32
    np.testing.assert_allclose(losses, expected, atol=TOLERANCE)


def test_a_token_sees_nothing_that_comes_later() -> None:
    first, second = image_prompt(TIED, text=6), image_prompt(TIED, text=6)
    second["input_ids"] = second["input_ids"].copy()
    second["input_ids"][0, -1] += 1
    one, other = logits(TIED, first)[0], logits(TIED, second)[0]
    np.testing.assert_array_equal(one[:-1], other[:-1])
    assert np.abs(one[-1] - other[-1]).max() > 0.01


def test_each_image_goes_to_its_own_tokens() -> None:
    arrays = pad_together([image_prompt(TIED, seed=1), image_prompt(TIED, seed=2)])
    changed = {**arrays, "pixel_values": arrays["pixel_values"].copy()}
    changed["pixel_values"][-1] += 1.0
    before, after = logits(TIED, arrays), logits(TIED, changed)
    np.testing.assert_array_equal(before[0], after[0])
    assert np.abs(before[1] - after[1]).max() > 0.01


def test_a_batch_without_labels_has_loss_and_gradient_zero() -> None:
    model = lively_model(TIED)
    arrays = text_prompt(5)
    batch = labelled_batch(TIED, arrays, [IGNORE] * 5)
    loss, gradients = ms.value_and_grad(
        lambda: model.token_losses(batch).sum(), None, weights=model.trainable_params()
    )()
    assert float(loss.asnumpy()) == 0.0
    assert not any(gradient.asnumpy().any() for gradient in gradients)


@by_spec
def test_gradients_are_those_of_finite_differences(spec: ModelSpec) -> None:
    # One random direction through all weights of each component; central difference in fp32, so 1 % is what it gives.
    model = Qwen25VL.from_spec(spec, lively_weights(spec))
    plan = model.plan(labelled_batch(spec, image_prompt(spec)))
    rng = np.random.default_rng(5)

    def loss() -> Tensor:
        return model.token_losses(plan).sum()

    for prefix in ("visual.blocks.0", "visual.merger", "visual.patch_embed", "model.layers.1", "model.embed"):
        parameters = [parameter for parameter in model.trainable_params() if parameter.name.startswith(prefix)]
        _, gradients = ms.value_and_grad(loss, None, weights=parameters)()
        starts = [parameter.asnumpy().copy() for parameter in parameters]
        norm = np.sqrt(sum(np.sum(gradient.asnumpy() ** 2) for gradient in gradients))
        # Along the gradient, mixed with noise: a purely random direction would mostly measure rounding.
        directions = [
            gradient.asnumpy() / norm + rng.standard_normal(gradient.shape).astype(np.float32) * 0.01
            for gradient in gradients
        ]
        slope = sum(np.sum(gradient.asnumpy() * way) for gradient, way in zip(gradients, directions, strict=True))
        step, values = 0.002, []
        for sign in (1, -1):
            for parameter, start, way in zip(parameters, starts, directions, strict=True):
                parameter.set_data(Tensor(start + np.float32(sign * step) * way))
            values.append(float(loss().asnumpy()))
        for parameter, start in zip(parameters, starts, strict=True):
            parameter.set_data(Tensor(start))
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=0.01), prefix


def test_freezing_changes_neither_the_loss_nor_the_other_gradients() -> None:
    model = Qwen25VL.from_spec(TIED, lively_weights(TIED))
    plan = model.plan(labelled_batch(TIED, image_prompt(TIED)))

    def run() -> tuple[float, dict[str, np.ndarray]]:
        weights = model.trainable_params()
        loss, gradients = ms.value_and_grad(lambda: model.token_losses(plan).sum(), None, weights=weights)()
        named = {weight.name: gradient.asnumpy() for weight, gradient in zip(weights, gradients, strict=True)}
        return float(loss.asnumpy()), named

    free_loss, free = run()
    for frozen, kept in ((["vision"], "visual.merger"), (["vision", "merger"], "model."), (["text"], "visual.")):
        model.freeze(frozen)
        loss, gradients = run()
        assert loss == free_loss
        assert any(name.startswith(kept) for name in gradients)
        for name, gradient in gradients.items():
            np.testing.assert_allclose(gradient, free[name], atol=1e-6, err_msg=f"{name} with {frozen} frozen")


def test_half_precision_stays_near_single_precision() -> None:
    # fp16 has 11 bits: 2**-11 of values up to about 4, over two layers of each tower.
    half = Qwen25VL.from_spec(TIED, lively_weights(TIED), "float16")
    arrays = image_prompt(TIED)
    result = half(**arrays)
    assert result.dtype == ms.float16
    np.testing.assert_allclose(result.asnumpy(), logits(TIED, arrays), atol=0.03)


def test_given_positions_replace_the_computed_ones() -> None:
    arrays = image_prompt(TIED)
    inputs = dict(arrays)
    positions = flatten_prompt(TIED, inputs.pop("input_ids"), **inputs).batch.position_ids[:, None]
    same = logits(TIED, {**arrays, "position_ids": positions})
    np.testing.assert_array_equal(same, logits(TIED, arrays))
    spread = logits(TIED, {**arrays, "position_ids": positions * 2})
    assert np.abs(spread - same).max() > 0.01


def test_refuses_image_tokens_without_their_image() -> None:
    arrays = image_prompt(TIED)
    with pytest.raises(DataError, match=r"holds 12 image tokens \(id 92\); the 0 grids of images need 0"):
        lively_model(TIED)(arrays["input_ids"])
