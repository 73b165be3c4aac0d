"""Buckets keep the order, lose nothing and stay within their limit."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from qvl_core.parallel.buckets import buckets


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 60))
def test_every_tensor_once_in_order_and_no_bucket_over_its_limit(sizes: list[int], limit: int) -> None:
    found = list(buckets(sizes, limit))
    assert [i for members in found for i in members] == list(range(len(sizes)))
    for members in found:
        assert len(members) == 1 or sum(sizes[i] for i in members) <= limit


@given(st.lists(st.integers(1, 50), min_size=2, max_size=40), st.integers(1, 60))
def test_a_bucket_is_closed_only_when_the_next_tensor_does_not_fit(sizes: list[int], limit: int) -> None:
    found = list(buckets(sizes, limit))
    for before, after in pairwise(found):
        assert sum(sizes[i] for i in before) + sizes[after[0]] > limit
