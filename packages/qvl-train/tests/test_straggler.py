"""A rank that is slow for long is named once, with its machine; a slow step or a heavier stage is none."""

from __future__ import annotations

from qvl_core.layout import Layout
from qvl_train.straggler import STEPS, Stragglers

LAYOUT = Layout(tp=2, dp=2, vision_stages=(4,), text_stages=(4,))
HOSTS = ["a", "a", "b", "b"]
USUAL = [1.0, 1.1, 0.9, 1.0]


def slow(rank: int, factor: float = 5.0) -> list[float]:
    return [seconds * factor if one == rank else seconds for one, seconds in enumerate(USUAL)]


def test_a_rank_slow_for_twenty_steps_is_named_with_its_machine_once() -> None:
    stragglers = Stragglers(LAYOUT, HOSTS)
    told = [stragglers.see(slow(2)) for _ in range(3 * STEPS)]
    assert [number for number, lines in enumerate(told, 1) if lines] == [STEPS]
    assert told[STEPS - 1] == [
        "rank 2 on b is slow: 4.50 s of computing in each of 20 steps, 4.5 times what other ranks of its stage take"
    ]


def test_it_is_named_again_after_it_has_recovered() -> None:
    stragglers = Stragglers(LAYOUT, HOSTS)
    steps = [slow(1)] * STEPS + [USUAL] + [slow(1)] * STEPS
    assert sum(len(stragglers.see(one)) for one in steps) == 2


def test_a_slow_step_now_and_then_and_a_little_slower_are_nothing() -> None:
    stragglers = Stragglers(LAYOUT, HOSTS)
    for number in range(10 * STEPS):
        assert stragglers.see(slow(3) if number % STEPS else USUAL) == []
        assert stragglers.see(slow(0, 1.4)) == []


def test_of_two_ranks_the_faster_one_is_the_measure() -> None:
    stragglers = Stragglers(Layout(dp=2, vision_stages=(4,), text_stages=(4,)), ["a", "b"])
    assert next(line for _ in range(STEPS) for line in stragglers.see([1.0, 1.6])).startswith("rank 1 on b is slow")


def test_a_stage_with_more_work_is_not_slow() -> None:
    layout = Layout(pp=2, dp=2, vision_stages=(4, 0), text_stages=(1, 3))
    stragglers = Stragglers(layout, HOSTS)
    assert not [line for _ in range(2 * STEPS) for line in stragglers.see([9.0, 9.0, 1.0, 1.0])]
