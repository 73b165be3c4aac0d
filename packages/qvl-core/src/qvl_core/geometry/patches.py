"""Pixels to flattened patches, and back.

Shapes: F frames, H height and W width in pixels, C channels, P patches.
Patches that the merger joins are neighbours in P: (slice, merged row, merged column, row inside, column inside).
The numbers of one patch are ordered (channel, frame, row, column). Source: the published image and video processors
(transformers, `image_processing_qwen2_vl` and `video_processing_qwen2_vl`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qvl_core.geometry.errors import GeometryError
from qvl_core.geometry.resize import checked_grids
from qvl_core.specs.model_spec import VisionSpec


def patchify(pixels: NDArray[np.float32], vision: VisionSpec) -> NDArray[np.float32]:
    """Return the flattened patches, float32 [P, patch_dim], of an image [H, W, C] or a video [F, H, W, C].

    H and W are already resized. Where F is no multiple of the temporal patch size the last frame is repeated; an image
    is one frame. Raises GeometryError if H or W is not a multiple of patch size x merge size, or C is wrong.
    """
    frames_FHWC = pixels[None] if pixels.ndim == 3 else pixels
    slices, rows, columns = patch_grid(frames_FHWC.shape, vision)
    missing = slices * vision.temporal_patch_size - frames_FHWC.shape[0]
    if missing:
        frames_FHWC = np.concatenate([frames_FHWC, np.repeat(frames_FHWC[-1:], missing, axis=0)])
    merge, patch = vision.spatial_merge_size, vision.patch_size
    blocks = frames_FHWC.reshape(
        slices, vision.temporal_patch_size, rows // merge, merge, patch, columns // merge, merge, patch, -1
    )
    ordered = blocks.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return np.ascontiguousarray(ordered, dtype=np.float32).reshape(slices * rows * columns, vision.patch_dim)


def unpatchify(patches: NDArray[np.float32], grid: tuple[int, int, int], vision: VisionSpec) -> NDArray[np.float32]:
    """Return the video [F, H, W, C] that `patchify` took apart; F counts a repeated last frame. For tests and previews.

    Raises GeometryError if the patches are not [t x h x w, patch_dim].
    """
    slices, rows, columns = checked_grids(grid, vision.spatial_merge_size)[0].tolist()
    expected = (slices * rows * columns, vision.patch_dim)
    if patches.shape != expected:
        raise GeometryError(f"patches have shape {patches.shape}; grid {(slices, rows, columns)} needs {expected}")
    merge, patch, depth = vision.spatial_merge_size, vision.patch_size, vision.temporal_patch_size
    blocks = patches.reshape(
        slices, rows // merge, columns // merge, merge, merge, vision.in_channels, depth, patch, patch
    )
    ordered = blocks.transpose(0, 6, 1, 3, 7, 2, 4, 8, 5)
    return np.ascontiguousarray(ordered).reshape(slices * depth, rows * patch, columns * patch, vision.in_channels)


def patch_grid(shape: tuple[int, ...], vision: VisionSpec) -> tuple[int, int, int]:
    """Return the grid (t, h, w) in patches of resized pixels of `shape` [H, W, C] or [F, H, W, C].

    Raises GeometryError if H or W is not a multiple of patch size x merge size, or C is wrong.
    """
    if len(shape) not in (3, 4) or 0 in shape:
        raise GeometryError(f"pixels have shape {shape}; expected [H, W, C] or [F, H, W, C], none of them 0")
    frames = shape[0] if len(shape) == 4 else 1
    height, width, channels = shape[-3:]
    factor = vision.patch_size * vision.spatial_merge_size
    if height % factor or width % factor:
        raise GeometryError(
            f"an image of {height} x {width} pixels (height x width) is no multiple of {factor}; resize first"
        )
    if channels != vision.in_channels:
        raise GeometryError(f"pixels have {channels} channels; the model takes {vision.in_channels}")
    slices = -(-frames // vision.temporal_patch_size)
    return slices, height // vision.patch_size, width // vision.patch_size
