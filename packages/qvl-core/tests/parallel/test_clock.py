"""The simulated clock agrees with the published bubble, with hand-made timelines and with bounds."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qvl_core.parallel.clock import StageTimes, ideal_bubble, shortest_bubble, shortest_makespan, simulate


def even(stages: int, micro_batches: int, forward: float = 1.0, backward: float = 2.0) -> list[StageTimes]:
    return [StageTimes(forward=(forward,) * micro_batches, backward=(backward,) * micro_batches)] * stages


@st.composite
def uneven(draw: st.DrawFn) -> list[StageTimes]:
    stages, micro_batches = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    without = draw(st.integers(0, stages - 1))
    length = st.integers(0, 9).map(float)
    row = st.lists(length, min_size=micro_batches, max_size=micro_batches).map(tuple)
    return [StageTimes(forward=draw(row), backward=draw(row) if s >= without else ()) for s in range(stages)]


@pytest.mark.parametrize("stages", range(1, 9))
@pytest.mark.parametrize("micro_batches", [1, 2, 3, 7, 8, 24])
def test_balanced_stages_have_the_published_bubble(stages: int, micro_batches: int) -> None:
    times = even(stages, micro_batches)
    timeline = simulate(times)
    assert timeline.makespan == 3.0 * (micro_batches + stages - 1)
    assert timeline.bubble == pytest.approx(ideal_bubble(stages, micro_batches), abs=1e-12)
    assert shortest_makespan(times) == timeline.makespan


def test_ideal_bubble_is_a_part_of_the_whole_time() -> None:
    assert ideal_bubble(1, 5) == 0.0
    assert ideal_bubble(4, 96) == 3 / 99
    assert ideal_bubble(8, 1) == 7 / 8


def test_a_timeline_made_by_hand() -> None:
    times = [StageTimes(forward=(1.0, 3.0), backward=(2.0, 4.0)), StageTimes(forward=(2.0, 1.0), backward=(3.0, 2.0))]
    timeline = simulate(times, transfer=[0.5])
    shown = [[(i.action.kind[0], i.action.micro_batch, i.start, i.end) for i in stage] for stage in timeline.stages]
    assert shown == [
        [("f", 0, 0.0, 1.0), ("f", 1, 1.0, 4.0), ("b", 0, 7.0, 9.0), ("b", 1, 10.0, 14.0)],
        [("f", 0, 1.5, 3.5), ("b", 0, 3.5, 6.5), ("f", 1, 6.5, 7.5), ("b", 1, 7.5, 9.5)],
    ]
    assert timeline.makespan == 14.0
    assert [timeline.busy(stage) for stage in range(2)] == [10.0, 8.0]
    assert timeline.bubble == pytest.approx(1 - 18 / 28)


@given(uneven(), st.integers(0, 3))
def test_no_action_starts_before_what_it_needs_is_there(times: list[StageTimes], pause: int) -> None:
    timeline = simulate(times, transfer=[float(pause)] * (len(times) - 1))
    start, end = {}, {}
    for stage, intervals in enumerate(timeline.stages):
        for before, after in pairwise(intervals):
            assert before.end <= after.start
        for interval in intervals:
            key = interval.action.kind, stage, interval.action.micro_batch
            start[key], end[key] = interval.start, interval.end
    for kind, stage, index in start:
        source = stage - 1 if kind == "forward" else stage + 1
        if 0 <= source < len(times):
            assert start[kind, stage, index] >= end[kind, source, index] + pause
        if kind == "backward":
            assert start[kind, stage, index] >= end["forward", stage, index]


@given(uneven(), st.integers(0, 3))
def test_no_step_is_shorter_than_the_bounds(times: list[StageTimes], pause: int) -> None:
    transfer = [float(pause)] * (len(times) - 1)
    timeline = simulate(times, transfer=transfer)
    assert timeline.makespan >= shortest_makespan(times, transfer) - 1e-9
    assert shortest_makespan(times, transfer) >= max(map(timeline.busy, range(len(times))))
    assert timeline.bubble >= shortest_bubble(times, transfer) - 1e-9


def test_the_busiest_stage_sets_the_pace_of_a_long_step() -> None:
    times = even(3, 200)
    times[1] = StageTimes(forward=(2.0,) * 200, backward=(4.0,) * 200)
    assert shortest_makespan(times) == 3.0 + 1200.0
    assert simulate(times).makespan <= 1.02 * 1200.0
    assert shortest_bubble(times) == pytest.approx(1 - (600 + 1200 + 600) / (3 * 1203))


def test_a_stage_without_a_backward_runs_ahead_and_waits_for_no_gradient() -> None:
    times = [StageTimes(forward=(1.0, 1.0, 1.0), backward=()), *even(1, 3)]
    first, second = simulate(times).stages
    assert [interval.end for interval in first] == [1.0, 2.0, 3.0]
    assert second[-1].end == 10.0


def test_an_empty_clock_has_no_bubble() -> None:
    times = even(2, 1, forward=0.0, backward=0.0)
    assert simulate(times).bubble == shortest_bubble(times) == 0.0


@pytest.mark.parametrize(
    ("times", "transfer", "message"),
    [
        ([*even(1, 2), *even(1, 3)], (), r"these have \[2, 3\]"),
        ([StageTimes(forward=(1.0, 1.0), backward=(1.0,))], (), r"these have \[1, 2\]"),
        (even(3, 2), (1.0,), "3 stages have 2 borders, not 1"),
        ([*even(1, 1), StageTimes(forward=(1.0,), backward=())], (), "a backward needs one on every stage after it"),
    ],
)
def test_refuses_times_that_do_not_belong_together(
    times: list[StageTimes], transfer: tuple[float, ...], message: str
) -> None:
    for ask in (simulate, shortest_makespan):
        with pytest.raises(ValueError, match=message):
            ask(times, transfer)
