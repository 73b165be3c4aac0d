"""Boxes and points between frames, by the sizes that the pixels themselves are resized to; and as text.

Frames: `original` (pixels of the medium as displayed), `resized` (pixels of what the model sees: the result of
`qvl_core.geometry.smart_resize`, or of a video's plan), `norm1000` (0 to 1000 along each side). Sizes are (height,
width) in pixels, as everywhere; boxes are (x1, y1, x2, y2), points (x, y). Qwen2.5-VL (arXiv 2502.13923), section
2.1.1 writes absolute coordinates of the resized image.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from qvl_data.records.record import Frame, Record, Region, Turn

Size = tuple[int, int]
# Of rounded boxes, the last edge may lie this far outside, in pixels of the record's frame.
_ROUNDING = 0.5
_MARKER = re.compile("(<box>|<point>)")
_NORM = 1000


def frame_size(frame: Frame, original_hw: Size, resized_hw: Size) -> Size:
    """Give the (height, width) of a medium in a frame."""
    return {"original": original_hw, "resized": resized_hw, "norm1000": (_NORM, _NORM)}[frame]


def rescaled(region: Region, source_hw: Size, target_hw: Size) -> Region:
    """Give a region of a medium of one size at the medium's other size, not rounded."""
    y_scale, x_scale = target_hw[0] / source_hw[0], target_hw[1] / source_hw[1]
    values = tuple(value * (y_scale if i % 2 else x_scale) for i, value in enumerate(region.values))
    return Region(kind=region.kind, values=values, medium=region.medium)


def region_text(region: Region, size_hw: Size, frame: Frame) -> str:
    """Give the text of a region that is in a frame of this size: whole numbers inside it, `[x1, y1, x2, y2]`.

    Rounded and held inside as the model's published preparation of boxes does it: the last pixel of a side of n is
    n - 1; in norm1000 the last number is 1000.
    """
    height, width = size_hw
    y_last, x_last = (_NORM, _NORM) if frame == "norm1000" else (height - 1, width - 1)
    numbers = [min(max(round(value), 0), y_last if i % 2 else x_last) for i, value in enumerate(region.values)]
    return f"[{', '.join(map(str, numbers))}]"


def grounded_turns(record: Record, sizes: Sequence[tuple[Size, Size]], frame: Frame) -> tuple[Turn, ...]:
    """Give the record's turns with the numbers of its regions, in a frame, in place of `<box>` and `<point>`.

    `sizes` has the (height, width) of each medium as displayed and as resized. The turns of a record without regions
    are given back as they are.
    """
    if not record.regions:
        return record.turns
    texts = {"box": [], "point": []}  # type: dict[str, list[str]]
    for region in record.regions:
        original_hw, resized_hw = sizes[region.medium]
        target_hw = frame_size(frame, original_hw, resized_hw)
        moved = rescaled(region, frame_size(record.frame, original_hw, resized_hw), target_hw)
        texts[region.kind].append(region_text(moved, target_hw, frame))
    left = {f"<{kind}>": iter(found) for kind, found in texts.items()}

    def written(text: str) -> str:
        return _MARKER.sub(lambda match: next(left[match.group()]), text)

    return tuple(
        Turn(role=turn.role, texts=tuple(written(text) for text in turn.texts), media=turn.media)
        for turn in record.turns
    )


def check_regions(record: Record, sizes: Sequence[tuple[Size, Size]]) -> list[str]:
    """Give a message for each region that is no region of its medium: outside it, turned round, not finite."""
    messages = []
    for number, region in enumerate(record.regions):
        medium = record.media[region.medium]
        wrong = shape_problem(region, record.frame)
        if not wrong:
            original_hw, resized_hw = sizes[region.medium]
            wrong = _outside(region, frame_size(record.frame, original_hw, resized_hw), record.frame, medium.kind)
        if wrong:
            messages.append(f"region {number} on {medium.kind} {medium.written!r}: the {region.kind} {wrong}")
    return messages


def shape_problem(region: Region, frame: Frame) -> str:
    """Say what is wrong with a region whatever its medium's size is; "" if nothing is."""
    shown = _shown(region)
    if not all(math.isfinite(value) for value in region.values):
        return f"{shown} holds a number that is not finite"
    if region.kind == "box":
        x1, y1, x2, y2 = region.values
        if x2 < x1 or y2 < y1:
            name, low, high = ("x", x1, x2) if x2 < x1 else ("y", y1, y2)
            return f"{shown} has {name}2 = {high:g} below {name}1 = {low:g}; expected [x1, y1, x2, y2]"
    if frame == "norm1000":
        return _outside(region, (_NORM, _NORM), frame, "")
    return ""


def _outside(region: Region, size_hw: Size, frame: Frame, kind: str) -> str:
    height, width = size_hw
    for i, value in enumerate(region.values):
        limit = height if i % 2 else width
        if not -_ROUNDING <= value <= limit + _ROUNDING:
            name = "y" if i % 2 else "x"
            where = "0 to 1000" if frame == "norm1000" else f"the {frame} {kind} of {width} x {height} pixels"
            return f"{_shown(region)} has {name} = {value:g}, outside {where}"
    return ""


def _shown(region: Region) -> str:
    return f"[{', '.join(f'{value:g}' for value in region.values)}]"
