"""Patches back to pictures: what is shown is what the model gets, not the file that it was made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from qvl_core.geometry import unpatchify
from qvl_core.specs.model_spec import VisionSpec


def frames_of_patches(
    patches: NDArray[np.float32], grid: tuple[int, int, int], vision: VisionSpec, levels: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Give the frames, uint8 [F, H, W, C], of float32 [P, patch_dim] patches; a repeated last frame is one of them.

    `levels` float32 [C, 256] are the normalised values of the 256 levels: exact values come back as their level, what
    lies between (a video that was resized in floating point) as the nearest one.
    """
    frames = unpatchify(patches, grid, vision)
    pixels = np.empty(frames.shape, np.uint8)
    for channel, values in enumerate(levels):
        borders = (values[:-1] + values[1:]) / 2
        pixels[..., channel] = np.searchsorted(borders, frames[..., channel])
    return pixels
