"""The samples of a step are dealt evenly by tokens; which they are does not change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qvl_data.order.balance import balanced, deal_step


def spread(sums: list[int]) -> float:
    """Give by how much the largest sum exceeds the mean."""
    return max(sums) / (sum(sums) / len(sums)) - 1


@given(micro_batch=st.integers(1, 4), per_replica=st.integers(1, 4), replicas=st.integers(1, 4), data=st.data())
def test_every_item_is_dealt_once_and_all_micro_batches_are_equally_many(
    micro_batch: int, per_replica: int, replicas: int, data: st.DataObject
) -> None:
    count = micro_batch * per_replica * replicas
    tokens = data.draw(st.lists(st.integers(1, 1000), min_size=count, max_size=count))
    dealt = deal_step(tokens, micro_batch, replicas)
    assert [len(replica) for replica in dealt] == [per_replica] * replicas
    assert all(len(group) == micro_batch for replica in dealt for group in replica)
    assert sorted(index for replica in dealt for group in replica for index in group) == list(range(count))


@given(tokens=st.lists(st.integers(1, 1000), min_size=24, max_size=24))
def test_micro_batches_do_not_depend_on_the_number_of_replicas(tokens: list[int]) -> None:
    found = [sorted(group for replica in deal_step(tokens, 3, replicas) for group in replica) for replicas in (1, 2, 4)]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(("micro_batch", "replicas"), [(4, 4), (1, 8), (8, 2)])
def test_a_log_normal_mix_is_spread_far_less_than_as_it_comes(micro_batch: int, replicas: int) -> None:
    rng = np.random.default_rng(5)
    before, after = [], []
    for _ in range(50):
        tokens = np.clip(rng.lognormal(np.log(250), 0.8, 64), 16, 2048).astype(int).tolist()
        plain = [tokens[i : i + micro_batch] for i in range(0, 64, micro_batch)]
        before.append(spread([sum(map(sum, plain[rank::replicas])) for rank in range(replicas)]))
        dealt = deal_step(tokens, micro_batch, replicas)
        after.append(spread([sum(tokens[i] for group in replica for i in group) for replica in dealt]))
    assert np.mean(after) < 0.2 * np.mean(before)


def test_equal_counts_come_before_equal_sums() -> None:
    assert balanced([100, 1, 1, 1], 2) == [[0, 3], [1, 2]]
    assert balanced([5], 1) == [[0]]
