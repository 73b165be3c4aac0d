"""Patches by table equal the plain arithmetic; grids agree with patches. Parity with HF is in tests/parity."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from qvl_core.geometry import GeometryError, patchify
from qvl_data.media.pixels import normalised_levels, patches_of_frames
from qvl_data.processor import Processor


def test_levels_are_the_plain_arithmetic() -> None:
    levels = normalised_levels((0.5, 0.25, 0.0), (0.5, 0.25, 1.0), 1 / 255)
    assert levels.dtype == np.float32
    assert levels.shape == (3, 256)
    assert levels[0, 0] == -1.0
    assert levels[0, 255] == 1.0
    assert levels[2, 255] == 1.0
    # One rounding to float32 of the product, so 51/255 is float32(0.2).
    assert levels[2, 51] == np.float32(51 * (1 / 255))


@pytest.mark.parametrize("size", [(1, 1), (28, 28), (60, 80), (500, 90), (3, 400)])
def test_patches_equal_normalise_then_patchify(processor: Processor, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    patches, grid = processor.images.patches(image)
    assert grid == processor.images.grid(*size)
    assert patches.shape == (np.prod(grid), 1176)
    assert patches.dtype == np.float32
    resized = np.asarray(image.resize((grid[2] * 14, grid[1] * 14), Image.Resampling.BICUBIC))
    levels = processor.images.levels
    normalised = np.stack([levels[c][resized[:, :, c]] for c in range(3)], axis=-1)
    np.testing.assert_array_equal(patches, patchify(normalised, processor.spec.vision))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_frames_are_looked_up_in_pairs_and_the_last_one_fills_its_pair(processor: Processor, count: int) -> None:
    frames = np.random.default_rng(1).integers(0, 256, (count, 56, 84, 3), dtype=np.uint8)
    found = patches_of_frames(list(frames), processor.images.levels, processor.spec.vision)
    normalised = np.stack([processor.images.levels[c][frames[..., c]] for c in range(3)], axis=-1)
    np.testing.assert_array_equal(found, patchify(normalised, processor.spec.vision))


def test_a_lower_limit_for_one_image(processor: Processor) -> None:
    image = Image.new("RGB", (300, 300))
    patches, grid = processor.images.patches(image, max_pixels=3600)
    assert grid == (1, 4, 4) == processor.images.grid(300, 300, 3600)
    assert len(patches) == 16


def test_refuses_an_aspect_ratio_over_the_limit_and_accepts_the_limit(processor: Processor) -> None:
    with pytest.raises(GeometryError, match="aspect ratio"):
        processor.images.patches(Image.new("RGB", (2010, 10)))
    with pytest.raises(GeometryError, match=r"10 x 30000 pixels .* has aspect ratio 3000.00; the limit is 200"):
        processor.images.grid(10, 30_000)
    patches, _ = processor.images.patches(Image.new("RGB", (2000, 10)))
    assert len(patches)
