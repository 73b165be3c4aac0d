"""The `objects` of a record, boxes and points with a declared frame, to regions; and back for a file that is written.

`objects = {"bbox": [[x1, y1, x2, y2], ..], "point": [[x, y], ..], "medium": [..], "frame": "original"}`. The markers
`<box>` and `<point>` in the texts stand for them in order. `medium` numbers the record's media from 0 in the order of
their markers, first for each box, then for each point; a record with one medium needs none. Of ms-swift's names,
`bbox_type` ("real", "norm1", "norm1000"), `image_id`, `ref` with `<ref-object>`, `<bbox>` and boxes of two numbers are
read too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qvl_core.json_file import JsonError

from qvl_data.records.complaints import Complaints, excerpt, kind_of, names_of
from qvl_data.records.grounding import shape_problem
from qvl_data.records.record import Frame, MediaKind, Record, Region, Turn
from qvl_data.records.strict_json import parse_record

_FRAMES: dict[str, Frame] = {"original": "original", "norm1000": "norm1000", "resized": "resized"}
_BOX_TYPES: dict[str, tuple[Frame, float]] = {
    "real": ("original", 1.0),
    "norm1": ("norm1000", 1000.0),
    "norm1000": ("norm1000", 1.0),
}
_KEYS = {"bbox", "point", "medium", "image_id", "frame", "bbox_type", "ref"}
_MARKER = re.compile("(<box>|<bbox>|<point>|<ref-object>)")
_MARKERS = {"bbox": ("<box>", "<bbox>"), "point": ("<point>",), "ref": ("<ref-object>",)}


def parse_objects(raw: Any, turns: list[Turn], complaints: Complaints) -> tuple[list[Turn], tuple[Region, ...], Frame]:
    """Give the turns with the markers `<box>` and `<point>`, the regions in the order of the markers, their frame.

    Without boxes and points the turns are given back as they are: what looks like a marker in them is text.
    """
    unchanged: tuple[list[Turn], tuple[Region, ...], Frame] = (turns, (), "original")
    before = len(complaints)
    table = _table(raw, complaints)
    boxes = _numbers(table.get("bbox"), "bbox", (2, 4), complaints)
    points = _numbers(table.get("point"), "point", (2,), complaints)
    refs = _texts(table.get("ref"), complaints)
    frame, scale = _frame(table, complaints)
    if len(complaints) > before:
        return unchanged
    if not (boxes or points or refs):
        _check_counts(turns, {key: 0 for key in ("bbox", "point") if table.get(key) is not None}, complaints)
        return unchanged
    kinds = [kind for turn in turns for kind in turn.media]
    media = _media(table, kinds, len(boxes) + len(points), complaints)
    counts = {"bbox": len(boxes), "point": len(points), **({"ref": len(refs)} if refs else {})}
    _check_counts(turns, counts, complaints)
    if len(complaints) > before:
        return unchanged
    regions = [
        Region(kind="box" if len(values) == 4 else "point", values=tuple(scale * x for x in values), medium=medium)
        for values, medium in zip([*boxes, *points], media, strict=True)
    ]
    for number, region in enumerate(regions):
        wrong = shape_problem(region, frame)
        if wrong:
            complaints.add(f"`objects`: {_name(number, len(boxes))} {wrong}")
    marked = _Marked(iter(regions[: len(boxes)]), iter(regions[len(boxes) :]), iter(refs) if refs else None)
    new_turns = [
        Turn(role=turn.role, texts=tuple(marked.rewrite(text) for text in turn.texts), media=turn.media)
        for turn in turns
    ]
    return new_turns, tuple(marked.regions), frame


def objects_of(record: Record) -> dict[str, Any]:
    """Give the `objects` of a record: what `parse_objects` undoes."""
    boxes = [region for region in record.regions if region.kind == "box"]
    points = [region for region in record.regions if region.kind == "point"]
    return {
        "bbox": [_plain(region) for region in boxes],
        "point": [_plain(region) for region in points],
        "medium": [region.medium for region in (*boxes, *points)],
        "frame": record.frame,
    }


def _plain(region: Region) -> list[float]:
    return [int(value) if value.is_integer() else value for value in region.values]


class _Marked:
    """Rewrites the markers of texts in order and collects the regions that they stand for."""

    def __init__(self, boxes: Iterator[Region], points: Iterator[Region], refs: Iterator[str] | None) -> None:
        self._boxes, self._points, self._refs = boxes, points, refs
        self.regions: list[Region] = []

    def rewrite(self, text: str) -> str:
        """Give a text with `<box>`, `<point>` and the words of `<ref-object>`."""
        return _MARKER.sub(lambda match: self._replacement(match.group()), text)

    def _replacement(self, marker: str) -> str:
        if marker == "<ref-object>":
            return marker if self._refs is None else next(self._refs)
        region = next(self._points if marker == "<point>" else self._boxes)
        self.regions.append(region)
        return f"<{region.kind}>"


def _table(raw: Any, complaints: Complaints) -> dict[str, Any]:
    if isinstance(raw, str) and raw.lstrip().startswith("{"):
        # A Parquet column of JSON texts; no other string is of use here.
        try:
            raw = parse_record(raw.encode("utf-8", "surrogatepass"))
        except JsonError as error:
            complaints.add(f"`objects` is a string that is no JSON object: {error}")
            return {}
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        complaints.add(f"`objects` is {kind_of(raw)}, not an object with `bbox` and `point`")
        return {}
    table = {key: value for key, value in raw.items() if value is not None}
    unknown = set(table) - _KEYS
    if unknown:
        complaints.add(f"`objects` has the unknown {names_of(unknown)}; known are {names_of(_KEYS)}")
    return table


def _numbers(raw: Any, key: str, lengths: tuple[int, ...], complaints: Complaints) -> list[list[float]]:
    if raw is None:
        return []
    if not isinstance(raw, list):
        complaints.add(f"`objects.{key}` is {kind_of(raw)}, not a list of lists of numbers")
        return []
    found = []
    for number, values in enumerate(raw):
        is_right = isinstance(values, list) and len(values) in lengths and all(map(_is_number, values))
        if not is_right:
            shown = repr(values)[:80] if isinstance(values, list) else excerpt(values)
            wanted = f"{lengths[-1]} finite numbers"
            complaints.add(f"`objects.{key}[{number}]` is {shown}; expected {wanted}")
            continue
        found.append([float(value) for value in values])
    return found


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    # A float of more than 308 digits is infinite; the integer cannot even be converted.
    return abs(value) < 1e300 and math.isfinite(value)


def _texts(raw: Any, complaints: Complaints) -> list[str]:
    if raw is None:
        return []
    if not isinstance(raw, list) or not all(isinstance(text, str) for text in raw):
        complaints.add(f"`objects.ref` is {excerpt(raw)}, not a list of strings")
        return []
    return raw


def _frame(table: dict[str, Any], complaints: Complaints) -> tuple[Frame, float]:
    """Give the frame, and what its numbers are multiplied by first."""
    frame, box_type = table.get("frame"), table.get("bbox_type")
    if frame is not None and box_type is not None:
        complaints.add("`objects` has `frame` and `bbox_type`, which say the same; keep one")
    elif box_type is not None:
        if isinstance(box_type, str) and box_type in _BOX_TYPES:
            return _BOX_TYPES[box_type]
        complaints.add(f"`objects.bbox_type` is {excerpt(box_type)}; known are {', '.join(_BOX_TYPES)}")
    elif frame is not None and not (isinstance(frame, str) and frame in _FRAMES):
        complaints.add(f"`objects.frame` is {excerpt(frame)}; known are {', '.join(_FRAMES)}")
    elif frame is not None:
        return _FRAMES[frame], 1.0
    return "original", 1.0


def _media(table: dict[str, Any], kinds: Sequence[MediaKind], count: int, complaints: Complaints) -> list[int]:
    """Give the medium of each box and point."""
    media, images = table.get("medium"), table.get("image_id")
    if media is not None and images is not None:
        complaints.add("`objects` has `medium` and `image_id`, which say the same; keep one")
        return []
    if not kinds:
        complaints.add(f"`objects` holds {count} box(es) and point(s), and the record shows no image or video")
        return []
    key = "medium" if images is None else "image_id"
    numbers = media if images is None else images
    choices = list(range(len(kinds))) if images is None else [i for i, kind in enumerate(kinds) if kind == "image"]
    if numbers is None or (numbers == [] and count):
        if len(kinds) > 1:
            message = f"`objects` does not say which of the {len(kinds)} media its boxes and points are on"
            complaints.add(message, '"medium": [0, ...], one number for each box, then for each point')
            return []
        return [0] * count
    if not isinstance(numbers, list) or len(numbers) != count:
        found = f"{len(numbers)} numbers" if isinstance(numbers, list) else kind_of(numbers)
        complaints.add(f"`objects.{key}` holds {found}; there are {count} boxes and points")
        return []
    wrong = [each for each in numbers if type(each) is not int or not 0 <= each < len(choices)]
    if wrong:
        complaints.add(f"`objects.{key}` holds {excerpt(wrong[0])}; expected 0 to {len(choices) - 1}")
        return []
    return [choices[number] for number in numbers]


def _check_counts(turns: list[Turn], counts: Mapping[str, int], complaints: Complaints) -> None:
    """Complain where markers and entries differ in number, of the keys that the record has."""
    markers = [marker for turn in turns for text in turn.texts for marker in _MARKER.findall(text)]
    for key, in_record in counts.items():
        names = _MARKERS[key]
        in_text = sum(markers.count(name) for name in names)
        if in_text != in_record:
            message = f"{in_text} {names[0]} marker(s) in the text, {in_record} in `objects.{key}`; each needs one"
            complaints.add(message, kind="placeholder")


def _name(number: int, boxes: int) -> str:
    return f"bbox[{number}]" if number < boxes else f"point[{number - boxes}]"
