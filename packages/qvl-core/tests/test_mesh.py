"""Ranks and places are a bijection, and groups lie as the docstring says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qvl_core.layout import Layout
from qvl_core.parallel.mesh import Coordinate, coordinate_of, group_of, rank_of


def _layout(pp: int, dp: int, tp: int) -> Layout:
    return Layout(pp=pp, dp=dp, tp=tp, vision_stages=(1,) + (0,) * (pp - 1), text_stages=(1,) * pp)


SIZES = st.builds(_layout, st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))


@given(SIZES)
def test_every_rank_has_its_own_place_and_comes_back(layout: Layout) -> None:
    places = [coordinate_of(rank, layout) for rank in range(layout.world_size)]
    assert [rank_of(place, layout) for place in places] == list(range(layout.world_size))
    assert len(set(places)) == layout.world_size


def test_tensor_ranks_are_neighbours_then_replicas_then_stages() -> None:
    layout = _layout(pp=2, dp=3, tp=4)
    assert coordinate_of(1, layout) == Coordinate(pp=0, dp=0, tp=1)
    assert coordinate_of(4, layout) == Coordinate(pp=0, dp=1, tp=0)
    assert coordinate_of(12, layout) == Coordinate(pp=1, dp=0, tp=0)
    assert group_of(5, "tp", layout) == (4, 5, 6, 7)
    assert group_of(5, "dp", layout) == (1, 5, 9)
    assert group_of(5, "pp", layout) == (5, 17)


@given(SIZES, st.sampled_from(["pp", "dp", "tp"]))
def test_the_groups_of_an_axis_cover_all_ranks_once(layout: Layout, axis: str) -> None:
    groups = {group_of(rank, axis, layout) for rank in range(layout.world_size)}
    assert sorted(rank for group in groups for rank in group) == list(range(layout.world_size))


def test_refuses_a_rank_or_place_outside_the_mesh_and_takes_the_last_one() -> None:
    layout = _layout(pp=2, dp=1, tp=2)
    with pytest.raises(ValueError, match=r"rank 4 is outside 0\.\.3"):
        coordinate_of(4, layout)
    with pytest.raises(ValueError, match=r"tp 2 is outside 0\.\.1"):
        rank_of(Coordinate(pp=0, dp=0, tp=2), layout)
    assert rank_of(coordinate_of(3, layout), layout) == 3
