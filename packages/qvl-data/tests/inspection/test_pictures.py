"""What a preview shows is what the model gets."""

from __future__ import annotations

import numpy as np
from PIL import Image
from qvl_data.inspection.pictures import frames_of_patches
from qvl_data.processor import Processor


def test_patches_come_back_as_the_resized_pixels(processor: Processor) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (61, 90, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    patches, grid = processor.images.patches(image)
    frames = frames_of_patches(patches, grid, processor.spec.vision, processor.images.levels)
    side = processor.spec.vision.patch_size
    resized = image.resize((grid[2] * side, grid[1] * side), Image.Resampling.BICUBIC)
    assert frames.shape == (processor.spec.vision.temporal_patch_size, *resized.size[::-1], 3)
    for frame in frames:
        np.testing.assert_array_equal(frame, np.asarray(resized))


def test_values_between_levels_go_to_the_nearest(processor: Processor) -> None:
    vision, levels = processor.spec.vision, processor.images.levels
    step = levels[:, 1] - levels[:, 0]
    patches = np.zeros((4, vision.patch_dim), np.float32).reshape(4, vision.in_channels, -1)
    patches += (levels[:, 100] + 0.4 * step)[None, :, None]
    frames = frames_of_patches(patches.reshape(4, -1), (1, 2, 2), vision, levels)
    assert (frames == 100).all()
