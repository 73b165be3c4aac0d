"""RGB images to the patches that the vision encoder reads, by the rules of the checkpoint's image processor.

Equal to the bit to the published pillow-based processor (transformers, `Qwen2VLImageProcessorPil`). Faster, because
a resized pixel has 256 possible levels: rescaling and normalising become a table of 256 numbers per channel, looked
up once per pixel and not once per frame of the temporal patch.
"""

from __future__ import annotations

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
        return self._look_up(np.asarray(resized)), self.grid(image.height, image.width, max_pixels)

    def _look_up(self, pixels_HWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        patch, merge, frames = self.vision.patch_size, self.vision.spatial_merge_size, self.vision.temporal_patch_size
        height, width, channels = pixels_HWC.shape
        rows, columns = height // patch // merge, width // patch // merge
        blocks = pixels_HWC.reshape(rows, merge, patch, columns, merge, patch, channels)
        # (merged row, merged column, row inside, column inside, channel, frame, y, x)
        out = np.empty((rows, columns, merge, merge, channels, frames, patch, patch), np.float32)
        strip = max(1, _STRIP // (columns * merge**2))
        for start in range(0, rows, strip):
            part = slice(start, start + strip)
            for channel in range(channels):
                # Pixels change places while they are one byte each, not four.
                levels = blocks[part, ..., channel].transpose(0, 3, 1, 4, 2, 5)
                out[part, ..., channel, :, :, :] = np.take(self.levels[channel], levels, mode="clip")[..., None, :, :]
        return out.reshape(rows * columns * merge**2, -1)


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
