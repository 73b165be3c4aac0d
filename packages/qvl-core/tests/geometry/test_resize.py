"""Sizes, grids and token counts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qvl_core.geometry import GeometryError, checked_grids, image_grid, smart_resize, tokens_of, video_grid
from qvl_core.specs.model_spec import VisionSpec

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text(encoding="utf-8"))
VISION = VisionSpec(depth=32, hidden_size=1280, num_heads=16, intermediate_size=3420, out_hidden_size=2048)
RELEASED = {"factor": 28, "min_pixels": 3136, "max_pixels": 12845056}


def test_sizes_equal_the_golden_vectors() -> None:
    for height, width, low, high, *expected in VECTORS["resize"]:
        resized = smart_resize(height, width, factor=28, min_pixels=low, max_pixels=high)
        assert list(resized) == expected, (height, width, low, high)


def test_halves_round_to_even() -> None:
    assert smart_resize(42, 70, factor=28, min_pixels=1, max_pixels=10**6) == (56, 56)


@given(
    height=st.integers(1, 12000),
    width=st.integers(1, 12000),
    factor=st.sampled_from([14, 28, 32, 42]),
    bounds=st.tuples(st.integers(1, 4096), st.integers(1, 16384)).map(sorted),
)
def test_sizes_are_multiples_of_the_factor_inside_the_bounds(
    height: int, width: int, factor: int, bounds: list[int]
) -> None:
    if max(height, width) > 200 * min(height, width):
        return
    low, high = (bound * factor**2 for bound in bounds)
    new_height, new_width = smart_resize(height, width, factor=factor, min_pixels=low, max_pixels=high)
    assert new_height % factor == new_width % factor == 0
    assert min(new_height, new_width) >= factor
    # Growing rounds up, so the lower bound holds unless the size was rounded down from above the upper one.
    rounded = round(height / factor) * round(width / factor) * factor**2
    if rounded <= high:
        assert new_height * new_width >= low
    elif min(new_height, new_width) > factor:
        assert new_height * new_width <= high


def test_refuses_an_aspect_ratio_over_200_and_accepts_200() -> None:
    assert smart_resize(28, 5600, **RELEASED) == (28, 5600)
    with pytest.raises(GeometryError, match=r"28 x 5601 .* 200\.04; the limit is 200"):
        smart_resize(28, 5601, **RELEASED)


def test_refuses_no_area_and_impossible_bounds() -> None:
    assert smart_resize(1, 1, factor=28, min_pixels=1, max_pixels=1) == (28, 28)
    with pytest.raises(GeometryError, match="0 x 5 pixels"):
        smart_resize(0, 5, **RELEASED)
    with pytest.raises(GeometryError, match="min_pixels 9, max_pixels 8"):
        smart_resize(5, 5, factor=28, min_pixels=9, max_pixels=8)


def test_grids_count_patches_and_slices() -> None:
    bounds = {"vision": VISION, "min_pixels": 3136, "max_pixels": 12845056}
    assert image_grid(512, 512, **bounds) == (1, 36, 36)
    assert video_grid(7, 100, 300, **bounds) == (4, 8, 22)
    with pytest.raises(GeometryError, match="this one has 0"):
        video_grid(0, 100, 300, **bounds)


def test_tokens_are_patches_over_the_merge_unit() -> None:
    np.testing.assert_array_equal(tokens_of([[1, 36, 36], [4, 8, 22]], 2), [324, 176])
    assert tokens_of([1, 4, 4], 2).tolist() == [4]
    assert tokens_of([], 2).shape == (0,)


def test_refuses_a_grid_that_is_no_multiple_of_the_merge_size() -> None:
    assert checked_grids([[1, 4, 6]], 2).tolist() == [[1, 4, 6]]
    with pytest.raises(GeometryError, match=r"grid 1 is t=1, h=4, w=5 .* merge size 2"):
        tokens_of([[1, 4, 4], [1, 4, 5]], 2)
    with pytest.raises(GeometryError, match="t=0"):
        tokens_of([[0, 4, 4]], 2)
    with pytest.raises(GeometryError, match=r"\(1, 2\)"):
        tokens_of([[4, 4]], 2)
