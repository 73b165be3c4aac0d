"""The order of samples depends on seed, epoch and position only, and uses samples as evenly as the weights say."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qvl_data.order.randomness import drawn, shuffled
from qvl_data.order.sample_order import EndlessOrder, SampleOrder, held_out


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
    assert order((4, 3), (1.5, 1.0), seed=42).epoch(2).tolist() == [2, 5, 0, 4, 3, 3, 2, 1, 6]
    assert [drawn(1000, 42, 4, position) for position in range(3)] == [647, 813, 295]


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


@given(
    weights=st.tuples(st.sampled_from([0.3, 1.0, 2.5]), st.sampled_from([0.01, 1.0])),
    position=st.integers(0, 200),
    count=st.integers(1, 50),
)
def test_reading_from_any_position_gives_what_reading_all_epochs_gives(
    weights: tuple[float, float], position: int, count: int
) -> None:
    plain = order((9, 6), weights)
    whole: list[int] = []
    number = 0
    while len(whole) < position + count:
        whole += plain.epoch(number).tolist()
        number += 1
    assert EndlessOrder(plain).at(position, count).tolist() == whole[position : position + count]


def test_a_far_position_computes_its_own_epoch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []
    whole = SampleOrder.draws_of_epoch
    monkeypatch.setattr(SampleOrder, "draws_of_epoch", lambda self, n: computed.append(n) or whole(self, n))
    endless = EndlessOrder(order((10,)))
    endless.at(10_000_005, 3)
    endless.at(10_000_008, 4)
    assert computed == [1_000_000, 1_000_001]


def test_rounds_count_how_often_a_source_was_walked_through() -> None:
    _, rounds = order((4, 4), (1.5, 1.0)).draws_of_epoch(1)
    indexes = order((4, 4), (1.5, 1.0)).epoch(1)
    assert sorted(rounds[indexes < 4].tolist()) == [1, 1, 2, 2, 2, 2]
    assert rounds[indexes >= 4].tolist() == [1, 1, 1, 1]
