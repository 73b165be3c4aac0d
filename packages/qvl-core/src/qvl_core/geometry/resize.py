"""From pixels to patch grids and token counts.

The arithmetic is that of the published image processor (transformers, `image_processing_qwen2_vl`): the same
binary64 operations in the same order, because one different rounding moves an image to another grid.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvl_core.geometry.errors import GeometryError
from qvl_core.specs.model_spec import VisionSpec

ASPECT_RATIO_LIMIT = 200


def smart_resize(height: int, width: int, *, factor: int, min_pixels: int, max_pixels: float) -> tuple[int, int]:
    """Return the (height, width) in pixels that an image is resized to, both multiples of `factor`.

    `factor` is patch size x merge size (28 in every released model). The aspect ratio is kept as far as the multiples
    allow. The area ends in [min_pixels, max_pixels], except where a side would fall below one `factor` or where no
    multiple lies in between; then the published rule is followed, not the bound. `max_pixels` may be a fraction: a
    frame's share of a video's budget.
    Raises GeometryError for a side below 1, an aspect ratio over 200 and impossible bounds.
    """
    _check_resize_input(height, width, factor=factor, min_pixels=min_pixels, max_pixels=max_pixels)
    # round() is half-to-even here, as in the published rule: 42 px at factor 28 gives 56, 70 px gives 56 too.
    new_height = round(height / factor) * factor
    new_width = round(width / factor) * factor
    if new_height * new_width > max_pixels:
        shrink = math.sqrt((height * width) / max_pixels)
        new_height = max(factor, math.floor(height / shrink / factor) * factor)
        new_width = max(factor, math.floor(width / shrink / factor) * factor)
    elif new_height * new_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        new_height = math.ceil(height * grow / factor) * factor
        new_width = math.ceil(width * grow / factor) * factor
    return new_height, new_width


def image_grid(
    height: int, width: int, *, vision: VisionSpec, min_pixels: int, max_pixels: float
) -> tuple[int, int, int]:
    """Return the grid (1, h, w), in patches, of an image of `height` x `width` pixels. Raises GeometryError."""
    return video_grid(1, height, width, vision=vision, min_pixels=min_pixels, max_pixels=max_pixels)


def video_grid(
    frames: int, height: int, width: int, *, vision: VisionSpec, min_pixels: int, max_pixels: float
) -> tuple[int, int, int]:
    """Return the grid (t, h, w), in patches, of a video; the pixel bounds hold for each frame.

    A frame count that is no multiple of the temporal patch size is rounded up: the last frame is repeated.
    """
    if frames < 1:
        raise GeometryError(f"a video needs at least 1 frame; this one has {frames}")
    factor = vision.patch_size * vision.spatial_merge_size
    new_height, new_width = smart_resize(height, width, factor=factor, min_pixels=min_pixels, max_pixels=max_pixels)
    slices = -(-frames // vision.temporal_patch_size)
    return slices, new_height // vision.patch_size, new_width // vision.patch_size


def tokens_of(grids: ArrayLike, merge_size: int) -> NDArray[np.int64]:
    """Return the text tokens that each grid fills, int64 [N]: t x h x w / merge_size**2. `grids` is [N, 3] or [3].

    Raises GeometryError if a height or width is not a multiple of `merge_size`, or a side is below 1.
    """
    grids_N3 = checked_grids(grids, merge_size)
    return grids_N3.prod(axis=1) // merge_size**2


def checked_grids(grids: ArrayLike, merge_size: int) -> NDArray[np.int64]:
    """Return `grids` as int64 [N, 3] (t, h, w in patches). Raises GeometryError as `tokens_of` does."""
    grids_N3 = np.asarray(grids, dtype=np.int64)
    if grids_N3.size == 0:
        return np.zeros((0, 3), np.int64)
    if grids_N3.ndim > 2 or grids_N3.shape[-1] != 3:
        raise GeometryError(f"grids have shape {grids_N3.shape}; expected [N, 3] with t, h, w in patches")
    grids_N3 = grids_N3.reshape(-1, 3)
    wrong = (grids_N3 < 1).any(axis=1) | (grids_N3[:, 1:] % merge_size != 0).any(axis=1)
    if wrong.any():
        index = int(np.flatnonzero(wrong)[0])
        t, h, w = grids_N3[index].tolist()
        raise GeometryError(
            f"grid {index} is t={t}, h={h}, w={w} patches; each must be at least 1, "
            f"and h and w multiples of the merge size {merge_size}"
        )
    return grids_N3


def _check_resize_input(height: int, width: int, *, factor: int, min_pixels: int, max_pixels: float) -> None:
    if height < 1 or width < 1:
        raise GeometryError(f"an image of {height} x {width} pixels (height x width) has no area")
    if factor < 1 or min_pixels < 1 or max_pixels < min_pixels:
        raise GeometryError(
            f"factor {factor}, min_pixels {min_pixels}, max_pixels {max_pixels}: "
            "each must be at least 1 and min_pixels at most max_pixels"
        )
    ratio = max(height, width) / min(height, width)
    if ratio > ASPECT_RATIO_LIMIT:
        raise GeometryError(
            f"an image of {height} x {width} pixels (height x width) has aspect ratio {ratio:.2f}; "
            f"the limit is {ASPECT_RATIO_LIMIT}"
        )
