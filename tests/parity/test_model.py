"""Logits and gradients equal those of HF transformers, fp32, random weights, odd configurations, all kinds of input.

Both sides work out positions by themselves (HF from `mm_token_type_ids`), except in the test of a long video, where
HF 5.23 follows another rule than the released models (see `qvl_core.geometry.mrope`): there both are given ours.

Tolerances: logits are of order 1, so 1e-4 absolute is a relative one too; fp32 sums of some hundred terms in another
order differ by a few 1e-6 each layer. Gradients: 1e-4 of the norm of each parameter's gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import torch
from hf_models import PROMPTS, SPECS, Inputs, Pair, hf_name, make_inputs, pair, prompt_inputs
from mindspore import Tensor
from numpy.typing import NDArray
from parity_report import ParityReport
from qvl_core.batch import IGNORE, Batch
from qvl_core.geometry import mrope_positions
from qvl_core.model import Qwen25VL, flatten_prompt

LOGITS_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def report(request: pytest.FixtureRequest) -> Iterator[ParityReport]:
    collected = ParityReport("model")
    yield collected
    path = collected.write()
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{collected.summary()}\nwritten to {path}")


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", SPECS)
def test_logits_equal_hf(name: str, prompt: str, report: ParityReport) -> None:
    both = pair(name)
    inputs = prompt_inputs(both.spec, prompt)
    _compare_logits(both, inputs, f"{name} | {prompt}", report)


@pytest.mark.parametrize("name", ["tied, two full blocks", "one kv head, untied, odd vision heads"])
def test_logits_equal_hf_for_a_video_whose_time_outruns_its_sides(name: str, report: ParityReport) -> None:
    both = pair(name)
    inputs = make_inputs(both.spec, [[3, (6, 2, 2, 2.0), 8], [2, (2, 3), 4]])
    arrays = inputs.arrays
    positions, _ = mrope_positions(
        arrays["input_ids"],
        arrays["attention_mask"],
        arrays["image_grid_thw"],
        arrays["video_grid_thw"],
        arrays["second_per_grid_ts"],
        both.spec,
    )
    given = dataclasses.replace(inputs, arrays={**arrays, "position_ids": positions.astype(np.int64)})
    theirs = _compare_logits(both, given, f"{name} | long video", report)
    # And the model finds the same positions when it is not given any.
    ours = both.ours(**arrays).asnumpy()
    assert np.abs(ours - theirs)[inputs.mask].max() <= LOGITS_TOLERANCE


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", SPECS)
def test_gradients_equal_hf(name: str, prompt: str, report: ParityReport) -> None:
    both = pair(name)
    inputs = prompt_inputs(both.spec, prompt)
    labels, weights = _labels(inputs)
    loss, ours = _our_gradients(both.ours, inputs, labels, weights)
    expected_loss, theirs = _hf_gradients(both, inputs, labels, weights)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    has_vision = inputs.token_kinds.any()
    for parameter, gradient in ours.items():
        if parameter.startswith("visual.") and not has_vision:
            assert not gradient.any(), f"{parameter} has a gradient although there is no image"
            continue
        norm = np.linalg.norm(theirs[parameter])
        assert norm > 0, f"{parameter} has no gradient in this case: the comparison would say nothing"
        error = np.linalg.norm(gradient - theirs[parameter]) / norm
        report.record("gradient error, norm over norm", f"{name} | {prompt}", error)
        assert error <= GRADIENT_TOLERANCE, f"{parameter}: {error:.3g}"


def test_a_folder_saved_by_hf_gives_hf_logits(tmp_path: Path, report: ParityReport) -> None:
    for name in ("tied, two full blocks", "no grouping, window of three units"):
        both = pair(name)
        folder = tmp_path / both.spec.name
        both.theirs.save_pretrained(folder, max_shard_size="200KB")
        assert (folder / "model.safetensors.index.json").exists()
        loaded = dataclasses.replace(both, ours=Qwen25VL.from_pretrained(folder))
        inputs = prompt_inputs(both.spec, "mixed, padded left")
        _compare_logits(loaded, inputs, f"{name} | saved by HF", report)


def _compare_logits(both: Pair, inputs: Inputs, case: str, report: ParityReport) -> NDArray[np.float32]:
    ours = both.ours(**inputs.arrays).asnumpy()
    with torch.no_grad():
        theirs = both.theirs(**inputs.for_hf()).logits.numpy()
    assert ours.shape == theirs.shape
    assert not ours[~inputs.mask].any(), "logits at padding are not zero"
    spread = theirs[inputs.mask].std()
    assert 0.3 < spread < 3.0, f"logits are not of order 1: {spread}"
    difference = np.abs(ours - theirs)[inputs.mask].max()
    report.record("logits, largest absolute difference", case, difference)
    assert difference <= LOGITS_TOLERANCE
    return theirs


def _labels(inputs: Inputs) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Give next-token labels [B, T], IGNORE at random places and at each row's end, and random loss weights [B, T]."""
    rng = np.random.default_rng(7)
    ids, mask = inputs.arrays["input_ids"], inputs.mask
    labels = np.full(ids.shape, IGNORE, np.int64)
    chosen = mask[:, :-1] & mask[:, 1:] & (rng.random(mask[:, 1:].shape) < 0.7)
    labels[:, :-1][chosen] = ids[:, 1:][chosen]
    return labels, rng.uniform(0.2, 1.0, ids.shape).astype(np.float32)


def _our_gradients(
    model: Qwen25VL, inputs: Inputs, labels: NDArray[np.int64], weights: NDArray[np.float32]
) -> tuple[float, dict[str, NDArray[np.float32]]]:
    arrays = dict(inputs.arrays)
    prompt = flatten_prompt(model.spec, arrays.pop("input_ids"), **arrays)
    flat = labels.reshape(-1)[prompt.kept_F].astype(np.int32)
    batch: Batch = dataclasses.replace(prompt.batch, labels=flat)
    weights_L = Tensor(weights.reshape(-1)[prompt.kept_F][batch.loss_rows])

    def weighted_loss() -> Tensor:
        return (model.token_losses(batch) * weights_L).sum()

    parameters = model.trainable_params()
    loss, gradients = ms.value_and_grad(weighted_loss, None, weights=parameters)()
    pairs = zip(parameters, gradients, strict=True)
    return float(loss.asnumpy()), {parameter.name: gradient.asnumpy() for parameter, gradient in pairs}


def _hf_gradients(
    both: Pair, inputs: Inputs, labels: NDArray[np.int64], weights: NDArray[np.float32]
) -> tuple[float, dict[str, NDArray[np.float32]]]:
    model = both.theirs
    model.zero_grad()
    logits = model(**inputs.for_hf()).logits
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.from_numpy(labels).flatten(), ignore_index=IGNORE, reduction="none"
    )
    loss = (losses * torch.from_numpy(weights).flatten()).sum()
    loss.backward()
    theirs = dict(model.named_parameters())
    gradients = {}
    for name, _ in both.ours.parameters_and_names():
        gradient = theirs[hf_name(name)].grad
        if gradient is not None:
            gradients[name] = gradient.numpy().copy()
    return loss.item(), gradients
