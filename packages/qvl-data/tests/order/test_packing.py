"""Packs hold every sample once, never more than their length, and nearly nothing is left empty."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from qvl_data.order.packing import Deals, PackGroup, best_fit


def log_normal(count: int, capacity: int, *, median: float = 0.2, sigma: float = 0.8) -> NDArray[np.int32]:
    """Draw lengths whose median is a share of the capacity, cut at 16 tokens and at the capacity."""
    drawn = np.random.default_rng(count).lognormal(np.log(median * capacity), sigma, count)
    return np.clip(np.round(drawn), 16, capacity).astype(np.int32)


def plain_best_fit(lengths: list[int], capacity: int) -> Counter[tuple[int, ...]]:
    """Do it sample by sample: the longest first, each into the fullest pack that has room."""
    packs: list[list[int]] = []
    for length in sorted(lengths, reverse=True):
        fitting = [pack for pack in packs if sum(pack) + length <= capacity]
        if fitting:
            max(fitting, key=sum).append(length)
        else:
            packs.append([length])
    return Counter(tuple(pack) for pack in packs)


def first_fit(lengths: list[int], capacity: int) -> int:
    """Count the packs of the plainest rule: samples as they come, each into the first pack that has room."""
    rooms: list[int] = []
    for length in lengths:
        at = next((i for i, room in enumerate(rooms) if room >= length), None)
        if at is None:
            rooms.append(capacity - length)
        else:
            rooms[at] -= length
    return len(rooms)


@given(st.integers(1, 60).flatmap(lambda c: st.tuples(st.just(c), st.lists(st.integers(1, c), max_size=60))))
def test_counting_gives_as_many_packs_as_best_fit_sample_by_sample(case: tuple[int, list[int]]) -> None:
    capacity, lengths = case
    packs = best_fit(np.array(lengths, np.int32), capacity)
    assert sorted(packs.lengths.tolist()) == sorted(lengths)
    found = [packs.lengths[a:b].tolist() for a, b in zip(packs.starts[:-1], packs.starts[1:], strict=True)]
    assert all(0 < sum(pack) <= capacity and pack == sorted(pack, reverse=True) for pack in found)
    assert len(packs) == plain_best_fit(lengths, capacity).total()


@pytest.mark.parametrize(("capacity", "median", "sigma"), [(1024, 0.25, 0.7), (2048, 0.17, 0.8), (8192, 0.11, 1.0)])
def test_a_log_normal_mix_fills_at_least_98_per_cent(capacity: int, median: float, sigma: float) -> None:
    lengths = log_normal(20_000, capacity, median=median, sigma=sigma)
    assert best_fit(lengths, capacity).fill(capacity) >= 0.98


def test_it_needs_fewer_packs_than_first_fit_and_not_many_more_than_the_least() -> None:
    lengths = log_normal(2_000, 1024, median=0.25)
    packs = len(best_fit(lengths, 1024))
    least = -(-int(lengths.sum()) // 1024)
    assert least <= packs <= 1.01 * least + 1
    assert packs < first_fit(lengths.tolist(), 1024)


def test_samples_that_fill_a_pack_alone_stay_alone() -> None:
    packs = best_fit(np.array([8, 8, 5, 5, 3], np.int32), 8)
    assert sorted(packs.lengths[a:b].tolist() for a, b in zip(packs.starts[:-1], packs.starts[1:], strict=True)) == [
        [5], [5, 3], [8], [8],
    ]  # fmt: skip


def test_each_round_deals_every_sample_to_a_place_of_its_length_and_differently() -> None:
    lengths = log_normal(500, 256)
    members = np.arange(1000, 1500)
    group = PackGroup(number=0, members=members, lengths=lengths, capacity=256)
    rounds = [group.deal(7, number) for number in range(3)]
    for dealt in rounds:
        assert sorted(dealt.tolist()) == members.tolist()
        np.testing.assert_array_equal(lengths[dealt - 1000], group.packs.lengths)
    assert len({dealt.tobytes() for dealt in rounds}) == 3
    np.testing.assert_array_equal(group.deal(7, 1), rounds[1])
    assert (group.deal(8, 1) != rounds[1]).any()


def test_forgotten_rounds_come_back_the_same() -> None:
    group = PackGroup(number=0, members=np.arange(40), lengths=log_normal(40, 64), capacity=64)
    deals = Deals(group, 3, kept=1)
    first = [deals.pack(number, 0) for number in range(len(group.packs))]
    assert [deals.pack(number, 1) for number in range(len(group.packs))] != first
    assert [deals.pack(number, 0) for number in range(len(group.packs))] == first


def test_what_fits_a_place_is_never_longer() -> None:
    lengths = np.array([5, 9, 5, 7], np.int32)
    group = PackGroup(number=0, members=np.array([10, 11, 12, 13]), lengths=lengths, capacity=9)
    assert group.not_longer(7).tolist() == [10, 12, 13]
    assert group.not_longer(4).tolist() == []
