"""The order of streamed rows: every row as often as its weight says, near its neighbours, readable from anywhere."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qvl_data.order.stream_order import EvenMix, SourceWalk, StreamOrder

BLOCKS = ((4, 4, 4, 3), (), (5, 5, 2))


def make(weights: tuple[float, ...] = (1.0, 1.0, 1.0), *, window: int = 9, seed: int = 1) -> StreamOrder:
    return StreamOrder(block_rows=BLOCKS, weights=weights, window=window, seed=seed)


@pytest.mark.parametrize("window", [1, 5, 9, 1000])
def test_an_epoch_uses_each_row_once_in_another_order_than_the_next(window: int) -> None:
    order = make(window=window)
    epochs = [[order.row(p) for p in range(e * 27, (e + 1) * 27)] for e in range(3)]
    assert order.epoch_length == 27
    assert all(sorted(epoch) == list(range(27)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize(("weight", "epochs", "uses"), [(2.0, 1, 2), (0.5, 2, 1), (1.5, 2, 3)])
def test_weights_use_every_row_equally_often(weight: float, epochs: int, uses: int) -> None:
    order = StreamOrder(block_rows=((4, 4, 2), (3, 1)), weights=(weight, 1.0), window=6, seed=1)
    used = Counter(order.row(position) for position in range(epochs * order.epoch_length))
    assert [used[row] for row in range(10)] == [uses] * 10
    assert [used[row] for row in range(10, 14)] == [epochs] * 4


@settings(max_examples=50)
@given(
    position=st.integers(0, 300), weights=st.sampled_from([(1.0, 1.0, 1.0), (0.3, 1.0, 2.0)]), window=st.integers(1, 40)
)
def test_a_position_means_the_same_whatever_was_read_before(
    position: int, weights: tuple[float, ...], window: int
) -> None:
    read_on = make(weights, window=window)
    rows = [read_on.row(p) for p in range(position + 1)]
    assert make(weights, window=window).row(position) == rows[-1]


def test_seeds_differ_and_numbers_never_change() -> None:
    assert [make(seed=1).row(p) for p in range(27)] != [make(seed=2).row(p) for p in range(27)]
    # A changed stream would silently change every resumed run: these numbers must never need an update.
    assert [make(seed=42).row(p) for p in range(8)] == [18, 8, 6, 19, 5, 17, 15, 11]


def test_neighbours_in_the_order_come_from_one_window_of_whole_blocks() -> None:
    walk = SourceWalk(number=0, block_rows=[10] * 20, window=50, seed=3)
    for start in range(0, 200, 50):
        rows = [walk.row(draw) for draw in range(start, start + 50)]
        assert len({row // 10 for row in rows}) == 5
        assert sorted(rows) == sorted(walk.window(start + 7).tolist())


def test_a_substitute_is_of_the_same_window_and_all_of_it_is_tried() -> None:
    order = make(window=9)
    for position in range(60):
        found = [order.substitute(position, attempt) for attempt in range(12)]
        tried = [row for row in found if row is not None]
        assert len(set(tried)) == len(tried) < 12
        assert order.row(position) in tried
        assert found == [make(window=9).substitute(position, attempt) for attempt in range(12)]


@given(draws=st.lists(st.integers(0, 9000), min_size=1, max_size=5).filter(any), epoch=st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_a_mix_draws_of_each_source_what_it_should_and_counts_on(draws: list[int], epoch: int) -> None:
    mix = EvenMix(draws, seed=1)
    found = [mix.at(epoch, offset) for offset in range(0, mix.length)]
    for source, wanted in enumerate(draws):
        assert [number for which, number in found if which == source] == list(range(wanted))


def test_sources_are_mixed_evenly_all_through_an_epoch() -> None:
    mix = EvenMix((90_000, 10_000), seed=1)
    rare = np.array([mix.at(0, offset)[0] for offset in range(100_000)])
    shares = rare.reshape(10, -1).mean(axis=1)
    assert shares.min() > 0.095
    assert shares.max() < 0.105


def test_a_far_position_is_found_without_the_way_to_it() -> None:
    order = StreamOrder(block_rows=([256] * 40_000,), weights=(1.0,), window=16_384, seed=1)
    assert order.row(10_000_000) != order.row(10_000_001)
    assert 0 <= order.row(3 * order.epoch_length + 10_000_000) < 256 * 40_000
