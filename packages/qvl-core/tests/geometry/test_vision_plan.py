"""Windows, frames and vision positions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qvl_core.geometry import GeometryError, tokens_of, vision_plan, vision_rotary
from qvl_core.specs.model_spec import VisionSpec

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text(encoding="utf-8"))
SIZES = {"depth": 32, "hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420, "out_hidden_size": 2048}
VISION = VisionSpec(**SIZES)


def test_windows_equal_the_golden_vectors() -> None:
    for case in VECTORS["windows"]:
        vision = VisionSpec(**SIZES, spatial_merge_size=case["merge"], window_size=case["window"])
        plan = vision_plan(case["grids"], vision)
        assert plan.window_index.tolist() == case["index"]
        assert list(plan.window_lengths) == case["window_lengths"]
        assert list(plan.frame_lengths) == case["frame_lengths"]


@settings(deadline=None)
@given(
    merged=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 20), st.integers(1, 20)), max_size=4),
    merge=st.integers(1, 3),
    side=st.integers(1, 6),
)
def test_the_plan_orders_every_unit_once(merged: list[tuple[int, int, int]], merge: int, side: int) -> None:
    vision = VisionSpec(**SIZES, spatial_merge_size=merge, window_size=side * merge * 14)
    grids = [(slices, rows * merge, columns * merge) for slices, rows, columns in merged]
    plan = vision_plan(grids, vision)
    units = int(tokens_of(grids, merge).sum())
    np.testing.assert_array_equal(plan.window_index[plan.inverse_index], np.arange(units))
    np.testing.assert_array_equal(np.sort(plan.window_index), np.arange(units))
    np.testing.assert_array_equal(np.sort(plan.patch_index), np.arange(units * merge**2))
    assert sum(plan.window_lengths) == sum(plan.frame_lengths) == units * merge**2
    assert all(0 < length <= (side * merge) ** 2 for length in plan.window_lengths)
    assert set(np.cumsum(plan.frame_lengths)) <= set(np.cumsum(plan.window_lengths))
    assert plan.rotary_positions.shape == (units * merge**2, 2)


def test_patches_of_one_window_lie_in_one_square() -> None:
    plan = vision_plan([[2, 20, 12]], VISION)
    windows = np.split(plan.rotary_positions // 8, np.cumsum(plan.window_lengths)[:-1])
    assert all(len(np.unique(window, axis=0)) == 1 for window in windows)
    assert plan.window_lengths == (64, 32, 64, 32, 32, 16) * 2


def test_rotary_positions_follow_the_window_order() -> None:
    grid = (1, 8, 16)
    plan = vision_plan([grid], VISION)
    rows, columns = np.mgrid[:8, :16]
    grouped = np.stack([rows, columns], axis=-1).reshape(4, 2, 8, 2, 2).transpose(0, 2, 1, 3, 4).reshape(-1, 2)
    np.testing.assert_array_equal(plan.rotary_positions, grouped[plan.patch_index])


def test_waves_are_those_of_the_angles() -> None:
    plan = vision_plan([[2, 4, 6], [1, 30, 2]], VISION)
    cosines, sines = vision_rotary(plan)
    angles = plan.rotary_angles.astype(np.float64)
    assert plan.rotary_angles.dtype == cosines.dtype == sines.dtype == np.float32
    np.testing.assert_array_equal(cosines, np.concatenate([np.cos(angles)] * 2, axis=1).astype(np.float32))
    np.testing.assert_array_equal(sines, np.concatenate([np.sin(angles)] * 2, axis=1).astype(np.float32))


def test_no_images_give_an_empty_plan() -> None:
    plan = vision_plan([], VISION)
    assert len(plan.window_index) == len(plan.patch_index) == 0
    assert plan.window_lengths == plan.frame_lengths == ()
    assert plan.rotary_angles.shape == (0, 40)
    assert vision_rotary(plan)[0].shape == (0, 80)


def test_refuses_a_window_without_a_merged_patch() -> None:
    vision_plan([[1, 4, 4]], VisionSpec(**SIZES, window_size=28))
    with pytest.raises(GeometryError, match=r"window_size 27 px .* 28 px"):
        vision_plan([[1, 4, 4]], VisionSpec(**SIZES, window_size=27))


def test_refuses_a_grid_that_is_no_multiple_of_the_merge_size() -> None:
    with pytest.raises(GeometryError, match="h=3"):
        vision_plan([[1, 3, 4]], VISION)
