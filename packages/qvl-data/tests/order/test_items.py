"""Items come in an order that is a function of seed and position, with and without packing."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qvl_data.order.items import MAX_SUBSTITUTES, ItemOrder, PackItems, SampleItems, count_items

COUNTS = (12, 0, 7, 9)
WEIGHTS = (2.0, 1.0, 0.5, 2.0)
LENGTHS = np.random.default_rng(0).integers(3, 40, sum(COUNTS)).astype(np.int32)


def make(kind: str, *, seed: int = 1, weights: tuple[float, ...] = WEIGHTS) -> ItemOrder:
    if kind == "packs":
        return PackItems(counts=COUNTS, weights=weights, lengths=LENGTHS, capacity=50, seed=seed)
    return SampleItems(counts=COUNTS, weights=weights, lengths=LENGTHS, seed=seed)


@pytest.mark.parametrize("kind", ["samples", "packs"])
@given(position=st.integers(0, 500), count=st.integers(1, 60))
def test_any_stretch_is_that_of_the_whole_order(kind: str, position: int, count: int) -> None:
    order = make(kind)
    whole = order.items(0, position + count)
    assert make(kind).items(position, count) == whole[position:]
    assert [item.position for item in whole] == list(range(position + count))


@pytest.mark.parametrize("kind", ["samples", "packs"])
def test_the_seed_changes_the_order_and_lengths_are_those_of_the_samples(kind: str) -> None:
    items = make(kind).items(0, 40)
    assert items != make(kind, seed=2).items(0, 40)
    assert all(item.lengths == tuple(LENGTHS[list(item.samples)]) for item in items)
    assert all(item.tokens <= 50 for item in items)


def test_two_epochs_of_packs_use_every_sample_as_often_as_its_weight_says() -> None:
    order = make("packs")
    used = Counter(sample for item in order.items(0, 2 * order.epoch_length) for sample in item.samples)
    # The group of weight 2 is walked through four times in two epochs; that of 0.5 once, to within a pack.
    assert [used[i] for i in (*range(12), *range(19, 28))] == [4] * 21
    assert max(used[i] for i in range(12, 19)) - min(used[i] for i in range(12, 19)) <= 1


def test_sources_of_unequal_weight_never_share_a_pack() -> None:
    light = set(range(12, 19))
    for item in make("packs").items(0, 100):
        assert not (set(item.samples) & light) or set(item.samples) <= light


@pytest.mark.parametrize("kind", ["samples", "packs"])
def test_a_substitute_fits_comes_from_the_same_sources_and_is_a_function_of_its_place(kind: str) -> None:
    order, twin = make(kind), make(kind)
    twin.items(300, 5)
    borders = np.cumsum([0, *COUNTS])
    for item in order.items(0, 60):
        for place, (sample, length) in enumerate(zip(item.samples, item.lengths, strict=True)):
            for attempt in range(3):
                found = order.substitute(item, place, attempt)
                assert found is not None
                assert found == twin.substitute(item, place, attempt)
                own, other = (int(np.searchsorted(borders, i, side="right")) - 1 for i in (sample, found))
                assert WEIGHTS[own] == WEIGHTS[other]
                if kind == "packs":
                    assert LENGTHS[found] <= length
                else:
                    assert own == other
    assert order.substitute(order.items(0, 1)[0], 0, MAX_SUBSTITUTES) is None


def test_an_epoch_counts_packs_only_where_there_are_any() -> None:
    assert count_items(COUNTS, (1.0,) * 4, LENGTHS, None) == sum(COUNTS)
    packs = count_items(COUNTS, (1.0,) * 4, LENGTHS, 50)
    assert int(LENGTHS.sum()) / 50 <= packs < sum(COUNTS)
    assert make("packs", weights=(1.0,) * 4).epoch_length == packs


def test_a_source_far_heavier_than_the_others_keeps_the_rounds_of_an_epoch() -> None:
    order = PackItems(counts=(3, 3), weights=(40.0, 1.0), lengths=np.full(6, 5, np.int32), capacity=5, seed=1)
    used = Counter(sample for item in order.items(0, order.epoch_length) for sample in item.samples)
    assert [used[i] for i in range(6)] == [40, 40, 40, 1, 1, 1]
