"""The order of samples depends on seed, epoch and position only, and uses samples as evenly as the weights say."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from qvl_data.order.sample_order import SampleOrder, held_out, shuffled


def order(counts: tuple[int, ...], weights: tuple[float, ...] | None = None, seed: int = 1) -> SampleOrder:
    return SampleOrder(counts=counts, weights=weights or (1.0,) * len(counts), seed=seed)


def test_an_epoch_uses_each_sample_once_in_another_order_than_the_next() -> None:
    epochs = [order((5, 7)).epoch(number).tolist() for number in range(4)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_same_arguments_same_order_other_seed_other_order() -> None:
    assert order((50,)).epoch(3).tolist() == order((50,)).epoch(3).tolist()
    assert order((50,)).epoch(3).tolist() != order((50,), seed=2).epoch(3).tolist()


def test_the_stream_is_fixed_for_good() -> None:
    """A changed stream would silently change every resumed run: these numbers must never need an update."""
    assert shuffled(10, 42, 0, 0).tolist() == [0, 1, 4, 2, 6, 8, 5, 9, 7, 3]


@pytest.mark.parametrize(("weight", "epochs", "uses"), [(2.0, 1, 2), (0.5, 2, 1), (0.25, 4, 1), (1.5, 2, 3)])
def test_weights_use_every_sample_equally_often(weight: float, epochs: int, uses: int) -> None:
    found = order((8, 4), (weight, 1.0))
    assert found.epoch_length == round(8 * weight) + 4
    used = Counter(index for number in range(epochs) for index in found.epoch(number).tolist())
    assert [used[index] for index in range(8)] == [uses] * 8
    assert [used[index] for index in range(8, 12)] == [epochs] * 4


def test_a_small_weight_still_draws_one_and_an_empty_source_none() -> None:
    found = order((10, 0, 3), (0.001, 5.0, 1.0))
    assert found.draws == (1, 0, 3)
    assert len(found.epoch(0)) == 4


def test_samples_of_all_sources_are_mixed() -> None:
    epoch = order((500, 500)).epoch(0)
    assert 150 < (epoch[:500] < 500).sum() < 350


def test_hold_out_size_and_repeatability() -> None:
    assert held_out(100, 0.1, 1).sum() == 10
    assert held_out(3, 0.01, 1).sum() == 1
    np.testing.assert_array_equal(held_out(100, 0.1, 1), held_out(100, 0.1, 1))
    assert (held_out(100, 0.1, 1) != held_out(100, 0.1, 2)).any()
