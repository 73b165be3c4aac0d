"""The order and the attention segments of a batch of patches in the vision encoder.

Shapes: N images and videos, P patches, U merged units (P / merge_size**2), Q frequencies of one axis.
Qwen2.5-VL (arXiv 2502.13923), section 2.1.1: most layers attend inside windows, a few inside the whole frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvl_core.geometry.errors import GeometryError
from qvl_core.geometry.resize import checked_grids
from qvl_core.specs.model_spec import VisionSpec


@dataclass(frozen=True, kw_only=True)
class VisionPlan:
    """How the encoder orders its patches, who attends to whom, and where each patch sits.

    "Input order" is that of `patchify`; "window order" is what the blocks see. A window never crosses a frame, so the
    frames stay contiguous in window order and `frame_lengths` holds in both.
    """

    window_index: NDArray[np.int32]
    """[U] merged unit (input order) at each place of window order: windowed = units[window_index]."""
    inverse_index: NDArray[np.int32]
    """[U] its inverse: units = windowed[inverse_index]. Applied to the merger's output."""
    window_lengths: tuple[int, ...]
    """Patches in each window, in window order; none is 0; adds up to P."""
    frame_lengths: tuple[int, ...]
    """Patches in each temporal slice, the segments of full attention; adds up to P."""
    rotary_positions: NDArray[np.int32]
    """[P, 2] row and column of each patch in its frame, in window order."""
    inverse_frequencies: NDArray[np.float32]
    """[Q] of the vision rotary embedding; Q = head_dim / 4."""
    merge_unit: int
    """Patches that the merger joins into one token."""

    @property
    def patch_index(self) -> NDArray[np.int32]:
        """[P] patch (input order) at each place of window order."""
        inside = np.arange(self.merge_unit, dtype=np.int32)
        return (self.window_index[:, None] * np.int32(self.merge_unit) + inside).reshape(-1)

    @property
    def rotary_angles(self) -> NDArray[np.float32]:
        """[P, head_dim / 2] angles in radians, rows first, in window order."""
        angles_P2Q = self.rotary_positions.astype(np.float32)[:, :, None] * self.inverse_frequencies
        return angles_P2Q.reshape(len(angles_P2Q), 2 * len(self.inverse_frequencies))


def vision_plan(grids: ArrayLike, vision: VisionSpec) -> VisionPlan:
    """Return the plan of the patches of `grids`, [N, 3] with t, h, w in patches, one after another.

    Raises GeometryError if a grid is not a multiple of the merge size or a window holds no merged unit.
    """
    merge, unit = vision.spatial_merge_size, vision.merge_unit
    grids_N3 = checked_grids(grids, merge)
    side = vision.window_size // merge // vision.patch_size
    if side < 1:
        raise GeometryError(
            f"window_size {vision.window_size} px is smaller than one merged patch of {merge * vision.patch_size} px"
        )
    indices, positions = [np.zeros(0, np.int32)], [np.zeros((0, 2), np.int32)]
    window_lengths: list[int] = []
    frame_lengths: list[int] = []
    first_unit = 0
    for slices, rows, columns in grids_N3.tolist():
        order, lengths = _window_order(rows // merge, columns // merge, side)
        offsets = first_unit + np.arange(slices, dtype=np.int32) * len(order)
        indices.append((offsets[:, None] + order).reshape(-1))
        positions.append(np.tile(_patch_positions(order, columns // merge, merge), (slices, 1)))
        window_lengths += (lengths * unit).tolist() * slices
        frame_lengths += [rows * columns] * slices
        first_unit += slices * len(order)
    window_index = np.concatenate(indices, dtype=np.int32)
    return VisionPlan(
        window_index=window_index,
        inverse_index=_inverse(window_index),
        window_lengths=tuple(window_lengths),
        frame_lengths=tuple(frame_lengths),
        rotary_positions=np.concatenate(positions, dtype=np.int32),
        inverse_frequencies=inverse_frequencies(vision.rope_theta, vision.head_dim // 2),
        merge_unit=unit,
    )


def inverse_frequencies(theta: float, dim: int) -> NDArray[np.float32]:
    """Return theta ** -(2 i / dim) for i in 0 .. dim / 2 - 1, float32 [dim / 2].

    `dim` is the head size of the text, and half the head size of the vision encoder (one axis of two).
    """
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    # float32 steps of the published model (power, then reciprocal), each correctly rounded by way of binary64.
    powers = np.power(float(theta), exponents.astype(np.float64)).astype(np.float32)
    return np.float32(1.0) / powers


def _window_order(rows: int, columns: int, side: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Order the merged units of one frame by window, row-major inside; also the units in each window."""
    windows_per_row = -(-columns // side)
    row_windows = np.arange(rows) // side * windows_per_row
    window_of_unit = (row_windows[:, None] + np.arange(columns) // side).reshape(-1)
    order = np.argsort(window_of_unit, kind="stable").astype(np.int32)
    return order, np.bincount(window_of_unit)


def _patch_positions(order: NDArray[np.int32], columns: int, merge: int) -> NDArray[np.int32]:
    """Row and column, [units x merge**2, 2], of the patches of one frame whose merged units come in `order`."""
    corner_U2 = np.stack(np.divmod(order, np.int32(columns)), axis=1) * np.int32(merge)
    inside_M2 = np.stack(np.divmod(np.arange(merge**2, dtype=np.int32), np.int32(merge)), axis=1)
    return (corner_U2[:, None] + inside_M2).reshape(-1, 2)


def _inverse(permutation: NDArray[np.int32]) -> NDArray[np.int32]:
    inverse = np.empty_like(permutation)
    inverse[permutation] = np.arange(len(permutation), dtype=permutation.dtype)
    return inverse
