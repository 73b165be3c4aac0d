"""The parts of a step add up to it; what the world's calls took is taken out; pauses belong to no step."""

from __future__ import annotations

from dataclasses import fields

import pytest
from qvl_core.parallel import step_clock
from qvl_core.parallel.step_clock import Kind, SilentClock, StepClock


class Spent:
    communication_s = 0.0
    waiting_s = 0.0


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give the time, which passes only when a test says so."""
    current = [100.0]
    monkeypatch.setattr(step_clock.time, "perf_counter", lambda: current[0])
    return current


def test_each_kind_gets_its_time_without_what_communication_took(now: list[float]) -> None:
    spent = Spent()
    clock = StepClock(spent)
    work: list[tuple[Kind, float, float, float]] = [
        ("data", 1.0, 0.0, 0.0),
        ("forward", 4.0, 0.5, 1.0),
        ("stages", 3.0, 0.25, 2.0),
        ("backward", 8.0, 0.0, 0.0),
        ("communication", 2.0, 1.5, 0.25),
        ("optimizer", 16.0, 0.0, 0.0),
        ("forward", 32.0, 0.0, 0.0),
    ]
    for kind, seconds, communication_s, waiting_s in work:
        clock.switch(kind)
        now[0] += seconds
        spent.communication_s += communication_s
        spent.waiting_s += waiting_s
    clock.switch("other")
    now[0] += 0.125
    found = clock.take()
    assert (found.data_s, found.forward_s, found.backward_s, found.optimizer_s) == (1.0, 34.5, 8.0, 16.0)
    # With what packing and unpacking took besides the calls themselves.
    assert found.communication_s == 0.5 + 3.0 - 2.0 + 2.0 - 0.25
    assert found.waiting_s == 3.25
    assert found.other_s == 0.125
    assert (found.stages_s, found.pipeline_s) == (3.0, 4.0 + 3.0 + 8.0 + 32.0)
    assert found.total_s == sum(one[1] for one in work) + 0.125


def test_a_step_begins_where_the_last_one_was_taken(now: list[float]) -> None:
    clock = StepClock(Spent())
    clock.switch("forward")
    now[0] += 1.0
    clock.take()
    now[0] += 2.0
    found = clock.take()
    assert found.forward_s == found.total_s == 2.0


def test_a_pause_counts_nowhere_and_switches_inside_are_without_effect(now: list[float]) -> None:
    spent = Spent()
    clock = StepClock(spent)
    clock.switch("optimizer")
    now[0] += 1.0
    with clock.paused():
        clock.switch("forward")
        now[0] += 50.0
        spent.communication_s += 20.0
        clock.switch("stages")
    now[0] += 2.0
    found = clock.take()
    assert found.optimizer_s == found.total_s == 3.0


def test_switching_gives_what_was_interrupted() -> None:
    clock = StepClock(Spent())
    clock.switch("backward")
    assert clock.switch("stages") == "backward"
    assert clock.switch("backward") == "stages"


def test_a_silent_clock_takes_every_call() -> None:
    assert SilentClock().switch("forward") == "forward"


def test_no_part_is_forgotten_in_the_sum() -> None:
    names = {one.name for one in fields(step_clock.StepTimes)} - {"stages_s", "pipeline_s"}
    ones = step_clock.StepTimes(**dict.fromkeys(names, 1.0), stages_s=100.0, pipeline_s=100.0)
    assert ones.total_s == len(names)
