"""Vision features of a medium that do not depend on what else is in the batch; losses from features that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from qvl_core.batch import Batch
from qvl_core.layout import Layout
from qvl_core.model import Qwen25VL
from qvl_core.parallel.pipeline import Pipeline
from qvl_core.parallel.single import SingleWorld
from qvl_core.parallel.vision_pass import VisionPass
from qvl_core.specs.model_spec import ModelSpec
from small_models import SPECS, lively_weights

# Pictures of several sizes, two of them alike, and videos of two and three slices; in units of merged patches.
GRIDS = [(1, 2, 3), (2, 4, 4), (1, 5, 1), (1, 2, 3), (3, 3, 2), (1, 7, 9)]


def frozen_model(spec: ModelSpec) -> Qwen25VL:
    model = Qwen25VL.from_spec(spec, lively_weights(spec))
    model.freeze(["vision", "merger"])
    return model


def make_batch(spec: ModelSpec, chosen: list[int]) -> Batch:
    """Make a batch of one sample of the media of these numbers; the same number is the same medium."""
    merge = spec.vision.spatial_merge_size
    grids = np.array([(t, h * merge, w * merge) for t, h, w in (GRIDS[number] for number in chosen)], np.int32)
    patches = [
        np.random.default_rng(number).standard_normal((int(grid.prod()), spec.vision.patch_dim), np.float32)
        for number, grid in zip(chosen, grids.reshape(-1, 3), strict=True)
    ]
    ids = [7, 8, *(spec.tokens.image for one in patches for _ in range(len(one) // spec.vision.merge_unit)), 9, 10]
    positions = np.tile(np.arange(len(ids), dtype=np.int32), (3, 1))
    return Batch(
        input_ids=np.array(ids, np.int32),
        position_ids=positions,
        sequence_lengths=(len(ids),),
        labels=np.array([*ids[1:], 11], np.int32),
        patches=np.concatenate([np.zeros((0, spec.vision.patch_dim), np.float32), *patches]),
        grids=grids.reshape(-1, 3),
    )


def alone(model: Qwen25VL, spec: ModelSpec, number: int) -> NDArray[np.float32]:
    batch = make_batch(spec, [number])
    features = VisionPass(model, SingleWorld(Layout.single(spec))).features(
        batch.patches, tuple(batch.grids[0].tolist())
    )
    assert features is not None
    return features


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("chosen", [[0], [0, 1], [3, 0, 0, 5, 2], [4, 1, 5, 3, 2, 0]])
def test_features_in_any_batch_are_those_of_the_medium_alone_to_the_bit(spec: ModelSpec, chosen: list[int]) -> None:
    model = frozen_model(spec)
    Pipeline(model, SingleWorld(Layout.single(spec)))
    assert model.runs_media_apart
    found = model.see(model.plan(make_batch(spec, chosen)), None)
    assert found is not None
    wanted = np.concatenate([alone(model, spec, number) for number in chosen])
    np.testing.assert_array_equal(found.asnumpy(), wanted)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_losses_and_gradients_from_known_features_are_the_same_to_the_bit(spec: ModelSpec) -> None:
    model = frozen_model(spec)
    pipeline = Pipeline(model, SingleWorld(Layout.single(spec)))
    for chosen in ([4, 0, 1], [2], []):
        batch = make_batch(spec, chosen)
        features = [alone(model, spec, number) for number in chosen]
        known = replace(batch, patches=batch.patches[:0], features=np.concatenate(features) if features else None)
        weights = np.ones(len(batch.loss_rows), np.float32)
        loss, gradients = pipeline.gradients([batch], [weights])
        again, others = pipeline.gradients([known], [weights])
        assert again == loss
        for one, other in zip(gradients, others, strict=True):
            np.testing.assert_array_equal(one.asnumpy(), other.asnumpy())


def test_a_tower_that_trains_runs_all_media_at_once() -> None:
    spec = SPECS[0]
    model = Qwen25VL.from_spec(spec, lively_weights(spec))
    for frozen in ((), ("vision",), ("text",)):
        model.freeze(frozen)
        Pipeline(model, SingleWorld(Layout.single(spec)))
        assert len(model.plan(make_batch(spec, [0, 1, 2])).vision) == 1
