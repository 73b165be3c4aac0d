"""Angles, cosines and sines of the rotary embeddings, vision (two axes) and text (three axes).

Shapes: T tokens, P patches, H head size. Angles are one float32 product of an integer position and an inverse
frequency, as in the published model. Cosines and sines are evaluated in binary64 and rounded to float32 once, so that
they do not depend on the vector library of the machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qvl_core.geometry.errors import GeometryError
from qvl_core.geometry.vision_plan import VisionPlan, inverse_frequencies
from qvl_core.specs.model_spec import TextSpec


def text_rotary(position_ids: NDArray[np.int32], text: TextSpec) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return cosine and sine, float32 [T, H] each, for M-RoPE positions [3, T] (time, height, width).

    The first `mrope_section[0]` frequencies turn with time, the next ones with height, the last with width; the two
    halves of H are equal. Qwen2-VL (arXiv 2409.12191), section 2.1. Raises GeometryError if the sections do not add up.
    """
    angles_TF = text_angles(position_ids, text)
    return _doubled(np.cos(angles_TF, dtype=np.float64)), _doubled(np.sin(angles_TF, dtype=np.float64))


def text_angles(position_ids: NDArray[np.int32], text: TextSpec) -> NDArray[np.float32]:
    """Return the angles in radians, float32 [T, H / 2]. Raises GeometryError as `text_rotary` does."""
    if sum(text.mrope_section) * 2 != text.head_dim:
        raise GeometryError(
            f"mrope_section {list(text.mrope_section)} adds up to {sum(text.mrope_section)}; "
            f"head size {text.head_dim} needs {text.head_dim // 2}"
        )
    if position_ids.ndim != 2 or position_ids.shape[0] != 3:
        raise GeometryError(f"M-RoPE positions have shape {position_ids.shape}; expected [3, T]")
    axis_of_frequency = np.repeat(np.arange(3), text.mrope_section)
    positions_TF = position_ids.astype(np.float32)[axis_of_frequency].T
    return positions_TF * inverse_frequencies(text.rope_theta, text.head_dim)


def vision_rotary(plan: VisionPlan) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return cosine and sine, float32 [P, H] each, of the patches of `plan` in window order.

    The first half of each half of H turns with the row, the second with the column of the patch.
    """
    # A 12,000 px image has 700,000 patches but fewer than 1,000 rows or columns: evaluate those, then gather.
    sides = np.arange(plan.rotary_positions.max(initial=0) + 1, dtype=np.float32)
    table = sides[:, None] * plan.inverse_frequencies
    return _gathered(np.cos(table, dtype=np.float64), plan), _gathered(np.sin(table, dtype=np.float64), plan)


def _gathered(table_SQ: NDArray[np.float64], plan: VisionPlan) -> NDArray[np.float32]:
    """Take the table's row for each patch's row and column, and write both halves of H."""
    rounded = table_SQ.astype(np.float32)
    rows, columns = plan.rotary_positions.T
    halves_P22Q = np.empty((len(rows), 2, 2, table_SQ.shape[1]), np.float32)
    halves_P22Q[:, :, 0] = rounded[rows][:, None]
    halves_P22Q[:, :, 1] = rounded[columns][:, None]
    return halves_P22Q.reshape(len(rows), 4 * table_SQ.shape[1])


def _doubled(values_TF: NDArray[np.float64]) -> NDArray[np.float32]:
    rounded = values_TF.astype(np.float32)
    return np.concatenate([rounded, rounded], axis=1)
