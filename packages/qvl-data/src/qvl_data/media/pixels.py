"""RGB images to the patches that the vision encoder reads, by the rules of the checkpoint's image processor.

Equal to the bit to the published pillow-based processor (transformers, `Qwen2VLImageProcessorPil`). Faster, because
a resized pixel has 256 possible levels: rescaling and normalising become a table of 256 numbers per channel, looked
up once per pixel and not once per frame of the temporal patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from qvl_core.geometry import image_grid, smart_resize
from qvl_core.specs.model_spec import VisionSpec

# Patches per strip of rows: what a strip needs stays in the second-level cache, and a small image is one strip.
_STRIP = 256


@dataclass(frozen=True, kw_only=True)
class ImageRules:
    """Everything between an RGB image and its patches. `levels` is float32 [channels, 256]: normalised pixel levels."""

    vision: VisionSpec
    min_pixels: int
    max_pixels: int
    levels: NDArray[np.float32]

    def grid(self, height: int, width: int, max_pixels: int | None = None) -> tuple[int, int, int]:
        """Give the grid (1, h, w) in patches of an image of this size. Raises GeometryError.

        `max_pixels` lowers the limit for one image (the policy `shrink`).
        """
        limit = self.max_pixels if max_pixels is None else max_pixels
        return image_grid(height, width, vision=self.vision, min_pixels=self.min_pixels, max_pixels=limit)

    def patches(
        self, image: Image.Image, max_pixels: int | None = None
    ) -> tuple[NDArray[np.float32], tuple[int, int, int]]:
        """Give the patches, float32 [P, patch_dim], and the grid (1, h, w) of an RGB image. Raises GeometryError."""
        limit = self.max_pixels if max_pixels is None else max_pixels
        factor = self.vision.patch_size * self.vision.spatial_merge_size
        height, width = smart_resize(
            image.height, image.width, factor=factor, min_pixels=self.min_pixels, max_pixels=limit
        )
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        patches = patches_of_frames([np.asarray(resized)], self.levels, self.vision)
        return patches, self.grid(image.height, image.width, max_pixels)


def patches_of_frames(
    frames: Sequence[NDArray[np.uint8]], levels: NDArray[np.float32], vision: VisionSpec
) -> NDArray[np.float32]:
    """Give the patches, float32 [P, patch_dim], of resized frames, uint8 [H, W, channels] each; an image is one frame.

    Where the count is no multiple of the temporal patch size the last frame is repeated.
    """
    patch, merge, depth = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    height, width, channels = frames[0].shape
    slices = -(-len(frames) // depth)
    rows, columns = height // patch // merge, width // patch // merge
    # (slice, merged row, merged column, row inside, column inside, channel, frame, y, x)
    out = np.empty((slices, rows, columns, merge, merge, channels, depth, patch, patch), np.float32)
    for number, frame in enumerate(frames):
        # The last frame fills its slice up.
        repeats = depth - number % depth if number == len(frames) - 1 else 1
        places = [out[number // depth, ..., number % depth + repeat, :, :] for repeat in range(repeats)]
        _fill(places, frame.reshape(rows, merge, patch, columns, merge, patch, channels), levels)
    return out.reshape(slices * rows * columns * merge**2, -1)


def _fill(places: Sequence[NDArray[np.float32]], blocks: NDArray[np.uint8], levels: NDArray[np.float32]) -> None:
    """Look up the levels of one frame, cut into blocks, and write them to each of `places`."""
    rows, merge, _, columns, *_, channels = blocks.shape
    strip = max(1, _STRIP // (columns * merge**2))
    for start in range(0, rows, strip):
        part = slice(start, start + strip)
        for channel in range(channels):
            # Pixels change places while they are one byte each, not four.
            pixels = blocks[part, ..., channel].transpose(0, 3, 1, 4, 2, 5)
            values = np.take(levels[channel], pixels, mode="clip")
            for place in places:
                place[part, ..., channel, :, :] = values


def normalised_levels(
    mean: tuple[float, ...], deviation: tuple[float, ...], rescale_factor: float
) -> NDArray[np.float32]:
    """Give float32 [channels, 256]: (level * rescale_factor - mean) / deviation for each channel.

    The product is taken in 64 bits and rounded once, the rest in 32 bits: the published processor's order, on which
    the last bit depends.
    """
    rescaled = (np.arange(256, dtype=np.float64) * rescale_factor).astype(np.float32)
    means = np.array(mean, np.float32)[:, None]
    deviations = np.array(deviation, np.float32)[:, None]
    return (rescaled[None] - means) / deviations
