"""Where every pixel and every token sits: sizes, grids, windows, positions. Numpy only, no mindspore.

Pixels:   smart_resize, image_grid, video_grid, tokens_of, patchify, patch_grid, unpatchify
Vision:   vision_plan, VisionPlan, vision_rotary
Text:     sample_positions, packed_positions, mrope_positions, rope_delta, next_positions, text_rotary
Shared:   inverse_frequencies, text_angles, checked_grids, ASPECT_RATIO_LIMIT, GeometryError
"""

from qvl_core.geometry.errors import GeometryError
from qvl_core.geometry.mrope import (
    mrope_positions,
    next_positions,
    packed_positions,
    rope_delta,
    sample_positions,
)
from qvl_core.geometry.patches import patch_grid, patchify, unpatchify
from qvl_core.geometry.resize import (
    ASPECT_RATIO_LIMIT,
    checked_grids,
    image_grid,
    smart_resize,
    tokens_of,
    video_grid,
)
from qvl_core.geometry.rotary import text_angles, text_rotary, vision_rotary
from qvl_core.geometry.vision_plan import VisionPlan, inverse_frequencies, vision_plan

__all__ = [
    "ASPECT_RATIO_LIMIT",
    "GeometryError",
    "VisionPlan",
    "checked_grids",
    "image_grid",
    "inverse_frequencies",
    "mrope_positions",
    "next_positions",
    "packed_positions",
    "patch_grid",
    "patchify",
    "rope_delta",
    "sample_positions",
    "smart_resize",
    "text_angles",
    "text_rotary",
    "tokens_of",
    "unpatchify",
    "video_grid",
    "vision_plan",
    "vision_rotary",
]
