"""Boxes and points move between frames by the sizes of the pixels, and come back within one pixel."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qvl_core.geometry import smart_resize
from qvl_data.records.grounding import (
    check_regions,
    frame_size,
    grounded_turns,
    region_text,
    rescaled,
)
from qvl_data.records.record import Frame, Medium, Record, Region, Turn

SIDE = st.integers(28, 4000)


def box(*values: float, medium: int = 0) -> Region:
    return Region(kind="box", values=values, medium=medium)


def point(*values: float, medium: int = 0) -> Region:
    return Region(kind="point", values=values, medium=medium)


def record(*regions: Region, text: str = "", frame: Frame = "original") -> Record:
    turns = (Turn(role="user", texts=("", "where?"), media=("image",)), Turn(role="assistant", texts=(text,)))
    media = tuple(Medium(kind="image", written=f"{i}.jpg") for i in range(2))
    return Record(where="x:1", turns=turns, media=media, regions=regions, frame=frame)


def numbers(text: str) -> list[int]:
    return json.loads(text)


@given(height=SIDE, width=SIDE, data=st.data())
@settings(max_examples=300, deadline=None)
def test_round_trip_to_the_resized_pixels_and_back(height: int, width: int, data: st.DataObject) -> None:
    resized = smart_resize(height, width, factor=28, min_pixels=3136, max_pixels=262_144)
    x = data.draw(st.floats(0, width))
    y = data.draw(st.floats(0, height))
    region = point(x, y)
    there = rescaled(region, (height, width), resized)
    back = rescaled(there, resized, (height, width))
    assert max(abs(back.values[0] - x), abs(back.values[1] - y)) < 1e-9 * max(height, width)
    # The text holds whole pixels of the resized image: within one of them, the last one taken for the edge.
    written = point(*numbers(region_text(there, resized, "resized")))
    again = rescaled(rescaled(written, resized, (height, width)), (height, width), resized)
    assert max(abs(a - b) for a, b in zip(again.values, there.values, strict=True)) <= 1 + 1e-9


@given(height=st.integers(56, 500), width=st.integers(56, 500), data=st.data())
@settings(max_examples=300, deadline=None)
def test_where_the_image_is_not_shrunk_the_text_comes_back_within_one_original_pixel(
    height: int, width: int, data: st.DataObject
) -> None:
    resized = smart_resize(height * 2, width * 2, factor=28, min_pixels=3136, max_pixels=10_000_000)
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    text = region_text(rescaled(point(x, y), (height, width), resized), resized, "resized")
    back = rescaled(point(*numbers(text)), resized, (height, width))
    assert abs(back.values[0] - x) <= 1
    assert abs(back.values[1] - y) <= 1


def test_the_last_pixel_of_a_side_is_the_edge() -> None:
    assert region_text(box(0, 0, 56, 28), (28, 56), "resized") == "[0, 0, 55, 27]"
    assert region_text(box(-0.4, 0, 1000, 1000.2), (1000, 1000), "norm1000") == "[0, 0, 1000, 1000]"


def test_frames_have_their_sizes() -> None:
    assert frame_size("original", (1, 2), (3, 4)) == (1, 2)
    assert frame_size("resized", (1, 2), (3, 4)) == (3, 4)
    assert frame_size("norm1000", (1, 2), (3, 4)) == (1000, 1000)


@pytest.mark.parametrize(
    ("source", "frame", "text"),
    [
        ("original", "resized", "at [5, 20] in [50, 40, 99, 80]"),
        ("original", "norm1000", "at [50, 100] in [500, 200, 1000, 400]"),
        ("norm1000", "resized", "at [1, 10] in [10, 20, 20, 40]"),
        ("resized", "resized", "at [10, 50] in [99, 100, 99, 199]"),
        ("original", "original", "at [10, 50] in [100, 100, 199, 200]"),
    ],
)
def test_markers_become_numbers_of_the_frame(source: Frame, frame: Frame, text: str) -> None:
    regions = (point(10, 50, medium=1), box(100, 100, 200, 200, medium=1))
    sizes = [((1, 1), (1, 1)), ((500, 200), (200, 100))]
    turns = grounded_turns(record(*regions, text="at <point> in <box>", frame=source), sizes, frame)
    assert turns[1].texts == (text,)
    assert turns[0] == record().turns[0]


def test_a_record_without_regions_keeps_its_text() -> None:
    plain = record(text="literal <box> and <point>")
    assert grounded_turns(plain, [((1, 1), (1, 1))] * 2, "resized") is plain.turns


@pytest.mark.parametrize(
    ("region", "frame", "message"),
    [
        (box(0, 0, 641, 480), "original", "x = 641, outside the original image of 640 x 480 pixels"),
        (box(0, -1, 640, 480), "original", "y = -1, outside"),
        (box(0, 0, 300, 100), "resized", "x = 300, outside the resized image of 280 x 224 pixels"),
        (box(0, 0, 1001, 1000), "norm1000", "x = 1001, outside 0 to 1000"),
        (point(700, 1), "original", "the point [700, 1] has x = 700"),
        (box(5, 0, 4, 1), "original", "x2 = 4 below x1 = 5"),
        (box(5, 3, 6, 1), "norm1000", "y2 = 1 below y1 = 3"),
        (box(math.nan, 0, 1, 1), "original", "not finite"),
        (point(1, math.inf), "resized", "not finite"),
    ],
)
def test_regions_that_are_none_are_named(region: Region, frame: Frame, message: str) -> None:
    sizes = [((480, 640), (224, 280))] * 2
    (found,) = check_regions(record(point(1, 1), region, frame=frame), sizes)
    assert found.startswith("region 1 on image '0.jpg': the ")
    assert message in found


def test_regions_on_the_edge_are_accepted() -> None:
    sizes = [((480, 640), (224, 280)), ((10, 10), (28, 28))]
    good = (box(0, 0, 640, 480), box(0, 0, 640.4, 480), box(3, 3, 3, 3), point(10, 10, medium=1))
    assert check_regions(record(*good), sizes) == []
    assert check_regions(record(point(11, 1, medium=1)), sizes) != []
