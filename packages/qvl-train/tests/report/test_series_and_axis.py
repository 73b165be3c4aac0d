"""Lines keep their peaks when they are thinned, and axes show what is there."""

from __future__ import annotations

import math

import numpy as np
import pytest
from qvl_train.report.axis import step_axis, value_axis
from qvl_train.report.numbers import number_text, seconds_text
from qvl_train.report.series import Series


def series(values: list[float] | np.ndarray, *, every: int = 1, first: int | None = None) -> Series:
    begin = every if first is None else first
    return Series(steps=np.arange(len(values)) * every + begin, values=np.asarray(values, np.float64))


def test_thinning_keeps_the_ends_and_every_peak() -> None:
    values = np.sin(np.arange(100_000))
    values[54_321], values[99_000] = 50.0, -50.0
    thin = series(values).thinned(700)
    assert len(thin) <= 702
    assert (np.diff(thin.steps) > 0).all()
    assert thin.steps[0] == 1
    assert thin.steps[-1] == 100_000
    assert thin.values[thin.steps == 54_322].tolist() == [50.0]
    assert thin.values.min() == -50.0


def test_a_short_line_is_neither_thinned_nor_smoothed() -> None:
    short = series([3.0, 2.0, 1.0])
    assert short.thinned() is short
    assert short.smoothed() is None


def test_smoothing_keeps_a_constant_and_a_straight_line_inside() -> None:
    flat = series([2.0] * 100).smoothed()
    assert flat is not None
    np.testing.assert_allclose(flat.values, 2.0, rtol=1e-12)
    line = series(np.arange(400.0)).smoothed()
    assert line is not None
    np.testing.assert_allclose(line.values[20:-20], np.arange(400.0)[20:-20], rtol=1e-9)


def test_smoothing_does_not_reach_over_a_hole() -> None:
    steps = np.array([*range(1, 51), *range(101, 151)])
    smooth = Series(steps=steps, values=np.where(steps < 60, 5.0, 1.0)).smoothed()
    assert smooth is not None
    assert set(smooth.values.round(12)) == {5.0, 1.0}


def test_a_line_is_cut_where_rows_lack() -> None:
    holed = Series(steps=np.array([1, 2, 3, 8, 9, 20]), values=np.arange(6.0))
    assert [piece.steps.tolist() for piece in holed.pieces()] == [[1, 2, 3], [8, 9], [20]]
    assert [piece.steps.tolist() for piece in series([1.0, 2.0, 3.0], every=10).pieces()] == [[10, 20, 30]]
    assert [piece.steps.tolist() for piece in series([1.0]).pieces()] == [[1]]
    assert list(series([]).pieces()) == []


@pytest.mark.parametrize(
    "steps",
    [
        [*range(10, 61, 10), *range(75, 200, 15)],
        [*range(1, 61), *range(70, 400, 10)],
        [*range(1, 61), 70, 80],
        [*range(10, 61, 10), *range(61, 200)],
        [*range(10, 61, 10), 65, *range(75, 121, 15), *range(121, 130)],
        [1, *range(10, 100, 10)],
    ],
)
def test_another_distance_of_rows_is_no_hole(steps: list[int]) -> None:
    (piece,) = Series(steps=np.array(steps), values=np.ones(len(steps))).pieces()
    assert piece.steps.tolist() == steps


def test_holes_are_found_on_both_sides_of_another_distance() -> None:
    steps = [*range(1, 21), *range(25, 61), *range(80, 121, 10), *range(150, 200, 10)]
    found = Series(steps=np.array(steps), values=np.ones(len(steps))).pieces()
    assert [(int(piece.steps[0]), int(piece.steps[-1])) for piece in found] == [
        (1, 20),
        (25, 60),
        (80, 120),
        (150, 190),
    ]


def test_a_run_that_went_on_with_shorter_distances_has_all_its_samples() -> None:
    steps = np.array([*range(10, 41, 10), *range(41, 101)])
    assert Series(steps=steps, values=np.full(len(steps), 16.0)).summed().values[-1] == 1600


@pytest.mark.parametrize(("every", "seen"), [(1, 160.0), (10, 1600.0)])
def test_a_row_stands_for_the_steps_since_the_row_before(every: int, seen: float) -> None:
    assert series([16.0] * 10, every=every).summed().values[-1] == seen


@pytest.mark.parametrize(("steps", "seen"), [([2, 3], 3), ([10, 12], 12), ([10, 20, 23], 23), ([5], 5), ([1, 2, 9], 9)])
def test_the_last_row_may_come_sooner_than_the_others(steps: list[int], seen: int) -> None:
    assert Series(steps=np.array(steps), values=np.ones(len(steps))).summed().values[-1] == seen


def test_very_many_holes_cost_no_more_than_few() -> None:
    steps = np.arange(100_000) * 7 // 6
    holed = Series(steps=steps, values=np.sin(steps))
    drawn = list(holed.drawn())
    assert len(drawn) == 201
    assert sum(map(len, drawn)) < 1500


def test_what_was_seen_before_the_first_row_of_a_file_without_its_beginning_is_not_invented() -> None:
    assert series([16.0] * 3, first=101).summed().values.tolist() == [16.0, 32.0, 48.0]


def test_a_loss_that_falls_far_has_decades() -> None:
    axis = value_axis([np.array([6.4, 0.05])], may_be_log=True)
    assert axis.is_log
    assert axis.low <= 0.05
    assert axis.high >= 6.4
    places = axis.place(np.array([axis.low, axis.high]))
    np.testing.assert_allclose(places, [0, 1], atol=1e-12)


@pytest.mark.parametrize("values", [[0.0, 6.4], [-1.0, 6.4], [2.0, 6.4]])
def test_values_of_one_size_or_not_above_zero_have_a_linear_axis(values: list[float]) -> None:
    axis = value_axis([np.array(values)], may_be_log=True)
    assert not axis.is_log
    assert axis.low <= min(values) < max(values) <= axis.high


def test_one_slow_step_does_not_press_the_others_flat() -> None:
    values = np.full(1000, 0.5)
    values[0] = 60.0
    axis = value_axis([values], from_zero=True)
    assert axis.high < 2
    assert axis.place(np.array([60.0])).tolist() == [1.0]


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0, 1e-12, 1e12])
def test_a_constant_has_an_axis_around_it(value: float) -> None:
    for from_zero in (False, True):
        axis = value_axis([np.array([value] * 3)], from_zero=from_zero)
        assert axis.low <= value <= axis.high
        assert axis.low < axis.high


def test_labels_of_steps_are_whole_and_inside() -> None:
    for first, last in ((1, 1), (1, 2), (1, 300), (0, 7), (5, 1_000_000)):
        axis = step_axis(first, last, labels=10)
        assert all(label == int(label) and first <= label <= max(last, first + 1) for label in axis.labels)
        assert 1 <= len(axis.labels) <= 12


@pytest.mark.parametrize(
    ("value", "text"),
    [(2620.0, "2,620"), (0.067993, "0.06799"), (1.25e-7, "1.25e-07"), (None, "–"), (float("nan"), "NaN"), (0.0, "0"),
     (6.419, "6.419"), (0.5, "0.5"), (-3.25, "-3.25"), (123456.7, "123,457"), (-math.inf, "infinite"),
     (999.96, "1,000"), (1.5e12, "1,500,000,000,000"), (6.4193658e50, "6.419e+50"), (-1e15, "-1e+15")],
)  # fmt: skip
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert number_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (2e-5, "20 µs"),
        (0.99999e-4, "0.1 ms"),
        (0.9996, "1 s"),
        (0.0854, "85.4 ms"),
        (4.2, "4.2 s"),
        (200, "3 min 20 s"),
        (18420, "5 h 07 min"),
        (190000, "2 d 04 h"),
    ],
)
def test_times_are_short(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text
