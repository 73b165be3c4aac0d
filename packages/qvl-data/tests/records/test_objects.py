"""`objects` become regions in the order of their markers; what does not fit is named with both numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from qvl_core.recipe.sections.data_sources import TagSection
from qvl_data.records.element import Element
from qvl_data.records.formats import parse_element
from qvl_data.records.objects import objects_of
from qvl_data.records.record import Record, Region


def parse(answer: str, objects: Any, *, images: int = 1, videos: int = 0, tags: TagSection | None = None) -> Any:
    question = "<image>" * images + "<video>" * videos + "where?"
    value = {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        "images": ["a.jpg"] * images,
        "videos": ["a.mp4"] * videos,
        "objects": objects,
    }
    return parse_element(Element(line=1, index=0, value=value), path=Path("x"), format_name="sharegpt", tags=tags)


def record(*args: Any, **options: Any) -> Record:
    found = parse(*args, **options)
    assert isinstance(found, Record), found
    return found


def box(*values: float, medium: int = 0) -> Region:
    return Region(kind="box", values=values, medium=medium)


def point(*values: float, medium: int = 0) -> Region:
    return Region(kind="point", values=values, medium=medium)


def test_regions_come_in_the_order_of_their_markers() -> None:
    objects = {"bbox": [[1, 2, 3, 4], [5, 6, 7.5, 8]], "point": [[9, 10]], "frame": "resized"}
    found = record("a <box> b <point> c <box>", objects)
    assert found.regions == (box(1, 2, 3, 4), point(9, 10), box(5, 6, 7.5, 8))
    assert found.frame == "resized"
    assert found.turns[1].texts == ("a <box> b <point> c <box>",)


@pytest.mark.parametrize("empty", [{"bbox": []}, {"bbox": None, "point": []}])
def test_an_empty_list_is_a_list_of_none_and_a_marker_wants_one(empty: Any) -> None:
    problems = parse("a <box> and a <point>", empty)
    assert isinstance(problems, tuple)
    (problem,) = problems
    assert "1 <" in problem.message
    assert "0 in `objects." in problem.message
    assert record("no marker", empty).regions == ()


@pytest.mark.parametrize("nothing", [None, {}, {"bbox": None, "frame": "original"}])
def test_without_boxes_a_marker_is_text(nothing: Any) -> None:
    found = record("a literal <box>, <bbox> and <point>", nothing)
    assert found.regions == ()
    assert found.turns[1].texts == ("a literal <box>, <bbox> and <point>",)


def test_medium_counts_all_media_and_image_id_images_only() -> None:
    objects = {"bbox": [[1, 2, 3, 4]], "point": [[1, 1]], "medium": [2, 0]}
    found = record("<box><point>", objects, images=2, videos=1)
    assert [region.medium for region in found.regions] == [2, 0]
    value = {
        "messages": [
            {"role": "user", "content": "<video><image>?"},
            {"role": "assistant", "content": "<box>"},
        ],
        "images": ["a.jpg"],
        "videos": ["a.mp4"],
        "objects": {"bbox": [[1, 2, 3, 4]], "image_id": [0]},
    }
    found = parse_element(Element(line=1, index=0, value=value), path=Path("x"), format_name="sharegpt")
    assert isinstance(found, Record)
    assert found.regions[0].medium == 1


def test_the_names_of_ms_swift_are_read() -> None:
    objects = {"ref": ["the cat", "a <dog>"], "bbox": [[0.1, 0.2, 0.5, 1], [0.5, 0.25]], "bbox_type": "norm1"}
    found = record("<ref-object> at <bbox>, <ref-object> at <bbox>", objects)
    assert found.turns[1].texts == ("the cat at <box>, a <dog> at <point>",)
    assert found.frame == "norm1000"
    assert found.regions == (box(100, 200, 500, 1000), point(500, 250))
    assert record("<box>", {"bbox": [[1, 2, 3, 4]], "bbox_type": "real"}).frame == "original"
    found = record("<box>", {"bbox": [[1, 2, 3, 4]], "bbox_type": "norm1000"})
    assert (found.frame, found.regions) == ("norm1000", (box(1, 2, 3, 4),))


@pytest.mark.parametrize(
    ("answer", "objects", "message"),
    [
        ("<box>", {"bbox": [[1, 2, 3, 4]] * 2}, "1 <box> marker(s) in the text, 2 in `objects.bbox`"),
        ("<box><point>", {"bbox": [[1, 2, 3, 4]]}, "1 <point> marker(s) in the text, 0 in `objects.point`"),
        ("a", {"bbox": [[1, 2, 3, 4]]}, "0 <box> marker(s) in the text, 1 in `objects.bbox`"),
        ("<box>", {"bbox": [[1, 2, 3]]}, "`objects.bbox[0]` is [1, 2, 3]; expected 4 finite numbers"),
        ("<box>", {"bbox": [[1, 2, 3, "4"]]}, "expected 4 finite numbers"),
        ("<box>", {"bbox": [[1, 2, 3, True]]}, "expected 4 finite numbers"),
        ("<box>", {"bbox": [[1, 2, 3, float("nan")]]}, "expected 4 finite numbers"),
        ("<box>", {"bbox": [[1, 2, 3, 10**400]]}, "expected 4 finite numbers"),
        ("<box>", {"bbox": [1, 2, 3, 4]}, "`objects.bbox[0]` is 1"),
        ("<box>", {"bbox": {"x": 1}}, "`objects.bbox` is an object"),
        ("<point>", {"point": [[1, 2, 3, 4]]}, "expected 2 finite numbers"),
        ("<box>", {"bbox": [[5, 2, 3, 4]]}, "bbox[0] [5, 2, 3, 4] has x2 = 3 below x1 = 5"),
        ("<box>", {"bbox": [[1, 2, 3, 1004]], "frame": "norm1000"}, "outside 0 to 1000"),
        ("<box>", {"bbox": [[1, 2, 3, 4]], "frame": "pixels"}, "known are original, norm1000, resized"),
        ("<box>", {"bbox": [[1, 2, 3, 4]], "frame": ["original"]}, "`objects.frame` is a list"),
        ("<box>", {"bbox": [[1, 2, 3, 4]], "bbox_type": "x"}, "known are real, norm1, norm1000"),
        ("<box>", {"bbox": [[1, 2, 3, 4]], "bbox_type": "real", "frame": "resized"}, "keep one"),
        ("<box>", {"bbox": [[1, 2, 3, 4]], "medium": [1]}, "`objects.medium` holds 1; expected 0 to 0"),
        ("<box>", {"bbox": [[1, 2, 3, 4]], "medium": [0, 0]}, "holds 2 numbers; there are 1 boxes and points"),
        ("<box>", {"bbox": [[1, 2, 3, 4]], "boxes": []}, "unknown boxes"),
        ("<box>", [[1, 2, 3, 4]], "`objects` is a list"),
        ("<box>", '{"bbox": ', "no JSON object"),
    ],
)
def test_refuses_objects_that_do_not_fit(answer: str, objects: Any, message: str) -> None:
    found = parse(answer, objects)
    assert isinstance(found, tuple)
    assert message in "\n".join(problem.message for problem in found)


def test_several_media_need_a_number_for_each_box() -> None:
    (found,) = parse("<box>", {"bbox": [[1, 2, 3, 4]]}, images=2)
    assert "which of the 2 media" in found.message
    assert '"medium": [0, ...]' in found.fix
    (found,) = parse("<box>", {"bbox": [[1, 2, 3, 4]]}, images=0)
    assert "shows no image or video" in found.message


def test_a_json_text_and_another_column_are_read() -> None:
    assert record("<box>", '{"bbox": [[1, 2, 3, 4]]}').regions == (box(1, 2, 3, 4),)
    assert record("<box>", {"bbox": [[1, 2, 3, 4]]}, tags=TagSection(objects="regions")).regions == ()


def test_writing_and_reading_gives_the_same() -> None:
    objects = {"bbox": [[1, 2, 3, 4], [0.5, 6, 7.25, 8]], "point": [[9, 10]], "medium": [1, 0, 2], "frame": "norm1000"}
    found = record("<point> <box> <box>", objects, images=2, videos=1)
    assert objects_of(found) == objects
