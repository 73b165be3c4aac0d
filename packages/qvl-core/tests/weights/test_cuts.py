"""A rank's rows and columns are what the numpy rules cut out, and the ranks together hold every element once."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qvl_core.layout_rules import legal_tensor_degrees
from qvl_core.params import parameter_table
from qvl_core.specs import load_spec
from qvl_core.weights.cuts import cut_of, matrix_shape
from qvl_core.weights.sharding import cut

SIZES = ("qwen2.5-vl-tiny", "qwen2.5-vl-3b", "qwen2.5-vl-7b", "qwen2.5-vl-32b", "qwen2.5-vl-72b")
RULES = ("replicate", "column", "vocab", "row", "fused_thirds")


@st.composite
def cases(draw):
    """Give (shape, rule, tp) of something that tp ranks can share."""
    rule, tp = draw(st.sampled_from(RULES)), draw(st.integers(1, 6))
    rows = draw(st.integers(1, 4)) * tp * (3 if rule == "fused_thirds" else 1)
    if rule == "replicate":
        rows = draw(st.integers(1, 7))
    more = draw(st.lists(st.integers(1, 4), max_size=3))
    if rule == "row":
        more = [draw(st.integers(1, 4)) * tp]
    return (rows, *more), rule, tp


def part_of(whole, found):
    matrix = whole.reshape(matrix_shape(whole.shape))
    rows = [matrix[run.first : run.stop, found.first_column : found.stop_column] for run in found.runs]
    return np.concatenate(rows)


@given(cases())
def test_a_part_is_what_the_numpy_rule_cuts_out(case):
    shape, rule, tp = case
    whole = np.arange(np.prod(shape)).reshape(shape)
    for rank in range(tp):
        found = cut_of(shape, rule, tp=tp, rank=rank)
        wanted = cut(whole, rule, tp=tp, rank=rank)
        assert (found.rows, found.columns) == matrix_shape(wanted.shape)
        assert np.array_equal(part_of(whole, found).reshape(wanted.shape), wanted)


@given(cases())
def test_the_ranks_hold_every_element_once_or_all_of_it(case):
    shape, rule, tp = case
    count = np.zeros(matrix_shape(shape), int)
    for rank in range(tp):
        found = cut_of(shape, rule, tp=tp, rank=rank)
        for run in found.runs:
            count[run.first : run.stop, found.first_column : found.stop_column] += 1
    assert np.all(count == (tp if rule == "replicate" else 1))


@given(cases())
def test_runs_follow_each_other_in_the_part_and_in_the_whole(case):
    shape, rule, tp = case
    for rank in range(tp):
        runs = cut_of(shape, rule, tp=tp, rank=rank).runs
        local = 0
        for run in runs:
            assert run.local == local
            local += run.stop - run.first
        assert all(before.stop <= after.first for before, after in pairwise(runs))


@pytest.mark.parametrize("size", SIZES)
def test_parts_of_every_size_have_the_shapes_of_the_parameter_table(size):
    spec = load_spec(size)
    for tp in legal_tensor_degrees(spec):
        for row in parameter_table(spec):
            parts = [cut_of(row.shape, row.shard, tp=tp, rank=rank) for rank in range(tp)]
            assert all((part.rows, part.columns) == matrix_shape(row.local_shape(tp)) for part in parts), row.name


def test_the_vision_qkv_gives_each_rank_matching_heads_of_all_three():
    found = cut_of((12, 5), "fused_thirds", tp=2, rank=1)
    assert [(run.first, run.stop, run.local) for run in found.runs] == [(2, 4, 0), (6, 8, 2), (10, 12, 4)]


def test_a_tensor_without_columns_is_one_column():
    assert matrix_shape((3840,)) == (3840, 1)
    assert matrix_shape((1280, 3, 2, 14, 14)) == (1280, 1176)
    assert matrix_shape(()) == (1, 1)
