"""The weights of tokens: they add up to one, and treat tokens, samples or micro batches alike."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from qvl_core.batch import IGNORE, Batch
from qvl_train.reduction import Reduction, count_units, loss_weights


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


def weights_of(batches: list[Batch], reduction: Reduction) -> list[NDArray[np.float32]]:
    """Give the weights of one replica that has all batches."""
    return loss_weights(batches, reduction, count_units(batches, reduction))


A = make_batch([IGNORE, 5, 6, 7], [IGNORE, 8])
B = make_batch([IGNORE, IGNORE, 9])


@pytest.mark.parametrize("reduction", ["token", "sample", "micro_batch"])
def test_weights_of_a_step_add_up_to_one(reduction: Reduction) -> None:
    assert sum(float(w.sum()) for w in weights_of([A, B], reduction)) == pytest.approx(1.0, abs=1e-6)


def test_token_reduction_gives_every_labelled_token_the_same_weight() -> None:
    weights = np.concatenate(weights_of([A, B], "token"))
    np.testing.assert_allclose(weights, 1 / 5, rtol=1e-6)


def test_sample_reduction_shares_a_third_among_each_samples_tokens() -> None:
    first, second = weights_of([A, B], "sample")
    np.testing.assert_allclose(first, [1 / 9, 1 / 9, 1 / 9, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(second, [1 / 3], rtol=1e-6)


def test_micro_batch_reduction_depends_on_grouping() -> None:
    first, second = weights_of([A, B], "micro_batch")
    np.testing.assert_allclose(first, 1 / 8, rtol=1e-6)
    np.testing.assert_allclose(second, 1 / 2, rtol=1e-6)


@pytest.mark.parametrize("reduction", ["token", "sample", "micro_batch"])
def test_a_micro_batch_without_labels_weighs_nothing(reduction: Reduction) -> None:
    empty = make_batch([IGNORE, IGNORE])
    first, second = weights_of([A, empty], reduction)
    assert first.sum() == pytest.approx(1.0)
    assert second.tolist() == [0.0]


def test_a_step_without_any_label_weighs_nothing() -> None:
    assert all(not w.any() for w in weights_of([make_batch([IGNORE])], "token"))


@pytest.mark.parametrize("reduction", ["token", "sample", "micro_batch"])
def test_replicas_give_every_token_the_weight_that_one_process_gives_it(reduction: Reduction) -> None:
    empty, other = make_batch([IGNORE]), make_batch([IGNORE, 3], [4, 5, IGNORE])
    replicas = [[A, empty], [B, other]]
    total = sum(count_units(own, reduction) for own in replicas)
    cut = [weights for own in replicas for weights in loss_weights(own, reduction, total)]
    whole = weights_of([A, empty, B, other], reduction)
    assert [weights.tolist() for weights in cut] == [weights.tolist() for weights in whole]


def test_units_are_labelled_tokens_or_the_samples_or_micro_batches_that_have_any() -> None:
    batches = [A, B, make_batch([IGNORE], [7])]
    assert [count_units(batches, reduction) for reduction in ("token", "sample", "micro_batch")] == [6, 4, 3]
