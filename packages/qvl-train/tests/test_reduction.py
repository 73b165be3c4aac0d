"""The weights of tokens: they add up to one, and treat tokens, samples or micro batches alike."""

from __future__ import annotations

import numpy as np
import pytest
from qvl_core.batch import IGNORE, Batch
from qvl_train.reduction import Reduction, loss_weights


def make_batch(*samples: list[int]) -> Batch:
    """Make a text-only batch from the labels of its samples."""
    labels = np.array([label for sample in samples for label in sample], np.int32)
    return Batch(
        input_ids=np.ones(len(labels), np.int32),
        position_ids=np.zeros((3, len(labels)), np.int32),
        sequence_lengths=tuple(len(sample) for sample in samples),
        labels=labels,
        patches=np.zeros((0, 6), np.float32),
        grids=np.zeros((0, 3), np.int32),
        sample_ids=tuple(str(i) for i in range(len(samples))),
    )


A = make_batch([IGNORE, 5, 6, 7], [IGNORE, 8])
B = make_batch([IGNORE, IGNORE, 9])


@pytest.mark.parametrize("reduction", ["token", "sample", "micro_batch"])
def test_weights_of_a_step_add_up_to_one(reduction: Reduction) -> None:
    assert sum(float(w.sum()) for w in loss_weights([A, B], reduction)) == pytest.approx(1.0, abs=1e-6)


def test_token_reduction_gives_every_labelled_token_the_same_weight() -> None:
    weights = np.concatenate(loss_weights([A, B], "token"))
    np.testing.assert_allclose(weights, 1 / 5, rtol=1e-6)


def test_sample_reduction_shares_a_third_among_each_samples_tokens() -> None:
    first, second = loss_weights([A, B], "sample")
    np.testing.assert_allclose(first, [1 / 9, 1 / 9, 1 / 9, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(second, [1 / 3], rtol=1e-6)


def test_micro_batch_reduction_depends_on_grouping() -> None:
    first, second = loss_weights([A, B], "micro_batch")
    np.testing.assert_allclose(first, 1 / 8, rtol=1e-6)
    np.testing.assert_allclose(second, 1 / 2, rtol=1e-6)


@pytest.mark.parametrize("reduction", ["token", "sample", "micro_batch"])
def test_a_micro_batch_without_labels_weighs_nothing(reduction: Reduction) -> None:
    empty = make_batch([IGNORE, IGNORE])
    first, second = loss_weights([A, empty], reduction)
    assert first.sum() == pytest.approx(1.0)
    assert second.tolist() == [0.0]


def test_a_step_without_any_label_weighs_nothing() -> None:
    assert all(not w.any() for w in loss_weights([make_batch([IGNORE])], "token"))
