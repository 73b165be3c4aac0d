"""Bins hold every sample once, at round numbers, and show where the limit is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_reader import PageReader
from qvl_data.inspection.histogram import length_histogram, round_width
from qvl_data.inspection.histogram_svg import histogram_svg
from qvl_data.inspection.report_text import histogram_lines

LENGTHS = st.lists(st.integers(1, 200_000), max_size=60)


@given(LENGTHS, LENGTHS, st.integers(1, 50_000))
def test_every_sample_is_in_one_bin(used: list[int], dropped: list[int], limit: int) -> None:
    found = length_histogram(np.array(used, np.int64), np.array(dropped, np.int64), limit)
    if not used + dropped:
        assert found is None
        return
    assert found is not None
    assert (sum(found.used), sum(found.dropped)) == (len(used), len(dropped))
    assert len(found.edges) == len(found.used) + 1 == len(found.dropped) + 1
    assert len(found.used) <= 40
    for place, count in enumerate(found.used):
        is_last = place + 1 == len(found.used)
        inside = [x for x in used if found.edges[place] <= x and (x < found.edges[place + 1] or is_last)]
        assert count == len(inside)
    assert found.is_open == (max(used + dropped) >= found.edges[-1])


def test_axis_ends_at_twice_the_limit() -> None:
    found = length_histogram(np.array([100]), np.array([1_000_000]), 1000)
    assert found is not None
    assert found.is_open
    assert 2000 <= found.edges[-1] <= 2200
    assert found.dropped[-1] == 1


@pytest.mark.parametrize(("wanted", "width"), [(0.1, 1), (1, 1), (1.5, 2), (3, 5), (5.1, 10), (60, 100), (200, 200)])
def test_widths_are_round(wanted: float, width: int) -> None:
    assert round_width(wanted) == width


def test_text_shows_every_number_and_the_limit() -> None:
    found = length_histogram(np.array([50] * 9 + [150] * 3), np.array([250]), 200)
    assert found is not None
    lines = histogram_lines(found)
    assert sum(int(line.split()[1]) for line in lines if "limit" not in line) == 13
    assert "1 dropped" in lines[-1]
    assert "x" in lines[-1]
    at = next(place for place, line in enumerate(lines) if "limit" in line)
    assert int(lines[at - 1].split()[0].split("-")[1]) >= 199
    assert max(map(len, lines)) <= 80


def test_text_without_dropped_samples_has_no_limit_line() -> None:
    found = length_histogram(np.array([50, 60]), np.array([], np.int64), 200)
    assert found is not None
    assert not [line for line in histogram_lines(found) if "limit" in line]


@pytest.mark.parametrize(("limit", "place"), [(200, "sequence_length 200"), (5000, "sequence_length 5,000 →")])
def test_drawing_has_axes_limit_and_a_title_a_bar(limit: int, place: str) -> None:
    found = length_histogram(np.array([50] * 9 + [150] * 3), np.array([250]), limit)
    assert found is not None
    drawing = histogram_svg(found, width=800, height=300, x_ticks=8, class_="wide")
    reader = PageReader(drawing)
    assert place in reader.text
    assert "tokens per sample" in reader.text
    assert reader.count("line", class_="limit") == (limit == 200)
    assert sum(int(title.split(": ")[1].split(" used")[0]) for title in reader.titles) == 12
    assert reader.count("rect", class_="lost") == 1


def test_drawing_stays_inside_its_frame() -> None:
    found = length_histogram(np.array([1, 30_000]), np.array([], np.int64), 40_000)
    assert found is not None
    reader = PageReader(histogram_svg(found, width=360, height=270, x_ticks=4, class_="narrow"))
    for tag, have in reader.tags:
        if tag == "rect":
            assert float(have["x"]) >= 0
            assert float(have["x"]) + float(have["width"]) <= 360
            assert float(have["y"]) + float(have["height"]) <= 270
