"""Pixels to patches and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qvl_core.geometry import GeometryError, patch_grid, patchify, unpatchify
from qvl_core.specs.model_spec import VisionSpec

SIZES = {"depth": 1, "hidden_size": 8, "num_heads": 1, "intermediate_size": 1, "out_hidden_size": 1}
VISION = VisionSpec(**SIZES)


@given(
    frames=st.integers(1, 5),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    merge=st.integers(1, 3),
    patch=st.integers(1, 5),
    depth=st.integers(1, 3),
)
def test_unpatchify_is_the_inverse(frames: int, rows: int, columns: int, merge: int, patch: int, depth: int) -> None:
    vision = VisionSpec(**SIZES, spatial_merge_size=merge, patch_size=patch, temporal_patch_size=depth)
    shape = (frames, rows * merge * patch, columns * merge * patch, 3)
    pixels = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    patches = patchify(pixels, vision)
    grid = patch_grid(shape, vision)
    assert patches.shape == (np.prod(grid), vision.patch_dim)
    back = unpatchify(patches, grid, vision)
    np.testing.assert_array_equal(back[:frames], pixels)
    np.testing.assert_array_equal(back[frames:], np.broadcast_to(pixels[-1], back[frames:].shape))


def test_an_image_is_one_frame_repeated() -> None:
    image = np.random.default_rng(0).standard_normal((28, 56, 3)).astype(np.float32)
    np.testing.assert_array_equal(patchify(image, VISION), patchify(np.stack([image, image]), VISION))


def test_merged_patches_are_neighbours_and_a_patch_is_channel_frame_row_column() -> None:
    rows, columns = np.mgrid[:28, :56]
    pixels = np.stack([rows // 14 * 100 + columns // 14] * 3, axis=-1).astype(np.float32)
    patches = patchify(pixels, VISION)
    assert patches[:, 0].tolist() == [0, 1, 100, 101, 2, 3, 102, 103]
    channels = np.broadcast_to(np.arange(3, dtype=np.float32), (28, 28, 3))
    np.testing.assert_array_equal(patchify(channels, VISION)[0], np.repeat([0, 1, 2], 2 * 14 * 14))


def test_refuses_pixels_that_do_not_fit_the_patches() -> None:
    assert patch_grid((28, 56, 3), VISION) == (1, 2, 4)
    with pytest.raises(GeometryError, match=r"28 x 42 pixels .* 28"):
        patchify(np.zeros((28, 42, 3), np.float32), VISION)
    with pytest.raises(GeometryError, match="4 channels; the model takes 3"):
        patchify(np.zeros((28, 28, 4), np.float32), VISION)
    with pytest.raises(GeometryError, match=r"\(28, 28\)"):
        patch_grid((28, 28), VISION)
    with pytest.raises(GeometryError, match=r"\(3, 1176\)"):
        unpatchify(np.zeros((3, 1176), np.float32), (1, 2, 2), VISION)
