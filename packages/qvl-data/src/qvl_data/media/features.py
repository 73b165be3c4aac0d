"""Names for what the vision tower reads of a medium: the same name, the same patches to the bit.

A name is a sum over the content of the file and what the rules for pixels came to for it: its grid, the frames taken of
a video, the normalised levels. So two recipes whose limits differ share the media that both show alike. What follows
from the weights is not in it: see `qvl_core.feature_store`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import metadata

import numpy as np
from numpy.typing import ArrayLike, NDArray
from qvl_core.specs.model_spec import VisionSpec

# Raise when patches of the same file, grid and frames change: another filter, another meaning of a pixel.
_VERSION = 1


class FeatureKeys:
    """Gives names, hexadecimal SHA-256 sums, under one set of rules. `levels` is float32 [channels, 256]."""

    def __init__(self, vision: VisionSpec, levels: NDArray[np.float32]) -> None:
        sizes = (vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size, vision.in_channels)
        # Another release of what decodes and resizes may round another way.
        decoders = {"image": ("pillow",), "video": ("pillow", "av")}
        self._starts = {}
        for kind, packages in decoders.items():
            versions = [f"{name} {metadata.version(name)}" for name in packages]
            start = hashlib.sha256(f"{_VERSION} {kind} {sizes} {versions}\n".encode())
            start.update(np.ascontiguousarray(levels, "<f4").tobytes())
            self._starts[kind] = start

    def image(self, digest: str, grid: Sequence[int]) -> str:
        """Name an image by its content's digest and the grid (1, h, w) that it is resized to."""
        return self._key("image", digest, grid)

    def video(self, digest: str, grid: Sequence[int], indices: ArrayLike) -> str:
        """Name a video by its content's digest, its grid and the numbers of the frames that are taken, in order."""
        return self._key("video", digest, grid, np.asarray(indices, "<i8").tobytes())

    def _key(self, kind: str, digest: str, grid: Sequence[int], rest: bytes = b"") -> str:
        total = self._starts[kind].copy()
        total.update(f"{digest} {tuple(map(int, grid))}\n".encode())
        total.update(rest)
        return total.hexdigest()
