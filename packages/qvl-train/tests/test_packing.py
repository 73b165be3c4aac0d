"""Packed samples train like the same samples one by one: same loss, same gradient of every parameter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mindspore", reason="training runs the model")

from qvl_core.parallel.pipeline import Pipeline
from qvl_core.parallel.single import SingleWorld
from qvl_core.parallel.stage import build_stage, random_local_weights
from qvl_core.recipe import load_recipe
from qvl_data import PreparedData, batches, prepare
from qvl_data.batching.micro_batch import collate
from qvl_train.checkpoint import checkpoint_path
from qvl_train.reduction import Reduction, count_units, loss_weights
from whole_runs import rows, train

# Packs of one window of the vision tower and of several images, of text alone, and of both.
PACKED = ("data.packing=true", "data.sequence_length=192")


@pytest.fixture
def mixed(project: Path) -> Path:
    """Give the project with records of text between those with a picture, of lengths from short to long."""
    records = json.loads(Path("train.json").read_text())
    for number in range(12):
        question = {"from": "human", "value": f"What comes after {number}?"}
        answer = {"from": "gpt", "value": "It is " * (number % 5) + str(number + 1)}
        records.insert(2 * number, {"conversations": [question, answer]})
    Path("train.json").write_text(json.dumps(records))
    return project


def gradients(recipe: Any, micro_batches: list[Any], reduction: Reduction) -> tuple[float, dict[str, Any]]:
    """Give the loss of a step and the gradient of every parameter by name, fp32."""
    world = SingleWorld(recipe.parallel)
    model = build_stage(recipe.spec, world, random_local_weights(recipe.spec, 5, world.layout, world.place))
    pipeline = Pipeline(model, world)
    weights = loss_weights(micro_batches, reduction, count_units(micro_batches, reduction))
    loss, found = pipeline.gradients(micro_batches, weights)
    return loss, {p.name: value.asnumpy() for p, value in zip(pipeline.trainable, found, strict=True)}


@pytest.mark.parametrize("reduction", ["token", "sample"])
def test_packed_loss_and_gradients_are_those_of_the_samples_one_by_one(mixed: Path, reduction: Reduction) -> None:
    recipe = load_recipe("recipe.toml", (*PACKED, "train.micro_batch=1", "train.global_batch=5"))
    data = prepare(recipe)
    with batches(data, recipe=recipe) as steps:
        packs = next(steps)
    assert max(len(pack.sample_ids) for pack in packs) >= 3
    assert any(0 < len(pack.grids) < len(pack.sample_ids) for pack in packs), "no pack mixes pictures and text"
    numbers = {data.train.where(i): i for i in range(len(data.train))}
    alone = [
        collate([data.train.sample(numbers[name])], data.processor.spec) for pack in packs for name in pack.sample_ids
    ]
    packed_loss, packed = gradients(recipe, packs, reduction)
    loss, single = gradients(recipe, alone, reduction)
    # fp32: matrix products of other shapes and sums of more parts add up in another order.
    assert packed_loss == pytest.approx(loss, rel=2e-6)
    assert packed.keys() == single.keys()
    for name, value in single.items():
        scale = float(np.abs(value).max())
        assert scale > 0, name
        np.testing.assert_allclose(packed[name], value, rtol=0, atol=2e-5 * scale, err_msg=name)


def test_samples_of_the_metrics_count_samples_and_an_epoch_counts_packs(mixed: Path) -> None:
    settings = (*PACKED, "train.micro_batch=1", "train.global_batch=4")
    data: PreparedData = prepare(load_recipe("recipe.toml", settings))
    packs = data.report.epoch_length
    assert packs < len(data.train)
    assert train(*settings, "train.steps=3") == 0
    steps = [row for row in rows() if "loss" in row]
    assert all(row["samples"] > 4 for row in steps)
    assert all(row["tokens"] <= 4 * 192 for row in steps)
    checkpoint = json.loads((checkpoint_path(Path("run"), 3) / "state.json").read_text())
    assert checkpoint["consumed_samples"] == 12
