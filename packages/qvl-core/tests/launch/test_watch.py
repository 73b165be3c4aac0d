"""The rules of the watch, on a clock of the test's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from qvl_core.launch.watch import CPU_LIMITS, Look, Vitals, Watch, limits_for

START = 1000.0
STEP_S = 0.25


def look(rank: int = 0, **changes) -> Look:
    values = {"process": 100 + rank, "counter": 5, "marked_at": START, "longest_s": 0.1, "waits": 3, "waiting": False}
    values |= {"done": False, "state": "step 7: forward", "vitals": Vitals(state="R", cpu_s=1.0)}
    return Look(rank=rank, **{**values, **changes})


def watched(seen, seconds: float, limits=CPU_LIMITS, step_s: float = STEP_S) -> list[tuple[str, int | None]]:
    """Look for so many seconds at what `seen(now)` gives; give what was found, each once."""
    watch, found, now = Watch(limits, START), [], START
    while now <= START + seconds:
        for verdict in watch.look(now, seen(now)):
            if (verdict.kind, verdict.rank) not in found:
                found.append((verdict.kind, verdict.rank))
        now += step_s
    return found


def busy(now: float) -> Vitals:
    return Vitals(state="R", cpu_s=now)


def asleep(now: float) -> Vitals:
    return Vitals(state="S", cpu_s=1.0)


def test_ranks_that_make_marks_are_left_alone() -> None:
    assert watched(lambda now: [look(0, marked_at=now, vitals=busy(now)), look(1, marked_at=now)], 600) == []


def test_a_rank_whose_process_is_gone_is_dead_unless_it_was_done() -> None:
    assert watched(lambda now: [look(0), look(1, vitals=None)], 1) == [("dead", 1)]
    assert watched(lambda now: [look(0), look(1, vitals=None, done=True)], 1) == []


def test_a_rank_that_has_not_begun_is_not_dead_but_absent_after_a_while() -> None:
    ranks = [look(1, process=0, counter=0, marked_at=0.0, longest_s=None, vitals=None)]
    assert watched(lambda now: ranks, 119) == []
    assert watched(lambda now: ranks, 121) == [("absent", 1)]


def test_a_stopped_rank_is_found_after_8_seconds_and_one_that_goes_on_is_not() -> None:
    def stopped_until(end: float):
        def seen(now: float) -> list[Look]:
            state = "T" if now < START + end else "R"
            return [look(2, vitals=Vitals(state=state, cpu_s=now))]

        return seen

    assert watched(stopped_until(9), 9) == [("stopped", 2)]
    assert watched(stopped_until(7), 12) == []


def test_a_debugger_may_stop_a_rank() -> None:
    assert watched(lambda now: [look(vitals=Vitals(state="t", cpu_s=now))], 14) == []


@pytest.mark.parametrize(("longest_s", "limit_s"), [(0.0, 15), (1.0, 15), (3.0, 30), (60.0, 600)])
def test_a_rank_hangs_when_it_is_quiet_for_ten_times_the_longest_and_15_seconds(longest_s, limit_s) -> None:
    def seen(now: float) -> list[Look]:
        return [look(longest_s=longest_s, vitals=busy(now)), look(1, waiting=True, vitals=busy(now))]

    assert watched(seen, limit_s - 1) == []
    assert watched(seen, limit_s + 1) == [("hung", 0)]


def test_the_first_time_of_a_kind_of_work_may_take_long_as_long_as_it_computes() -> None:
    def seen(now: float) -> list[Look]:
        return [look(longest_s=None, vitals=busy(now))]

    assert watched(seen, 299) == []
    assert watched(seen, 301) == [("hung", 0)]
    assert watched(seen, 1700, limits_for("ascend", 1)) == []
    assert watched(seen, 1801, limits_for("ascend", 1)) == [("hung", 0)]


def test_a_rank_that_does_nothing_at_all_hangs_even_then() -> None:
    def seen(now: float) -> list[Look]:
        return [look(longest_s=None, vitals=asleep(now))]

    assert watched(seen, 14) == []
    assert watched(seen, 16) == [("hung", 0)]


@pytest.mark.parametrize(
    "vitals",
    [
        lambda now: Vitals(state="D", cpu_s=1.0),
        lambda now: Vitals(state="R", cpu_s=1.0),
        lambda now: Vitals(state="S", cpu_s=1.0, disk_bytes=int(now)),
        lambda now: Vitals(state="S", cpu_s=now * 0.03),
    ],
    ids=["waits for storage", "has no core", "reads from storage", "computes a little"],
)
def test_a_slow_rank_is_not_idle(vitals) -> None:
    assert watched(lambda now: [look(longest_s=None, vitals=vitals(now))], 200) == []


def test_a_rank_that_waits_for_others_is_never_the_one_that_hangs() -> None:
    def seen(now: float) -> list[Look]:
        return [look(0, marked_at=now, vitals=busy(now)), look(1, waiting=True, vitals=asleep(now))]

    assert watched(seen, 1000) == []


def test_ranks_that_all_wait_for_15_seconds_are_deadlocked() -> None:
    def seen(now: float) -> list[Look]:
        ranks = [look(rank, waiting=True, vitals=busy(now)) for rank in range(4)]
        return [*ranks, look(4, done=True, vitals=None)]

    assert watched(seen, 14) == []
    assert watched(seen, 16) == [("deadlocked", None)]


def test_the_meeting_at_the_start_may_take_as_long_as_the_slowest_rank() -> None:
    def seen(now: float) -> list[Look]:
        return [look(rank, waiting=True, waits=0, vitals=asleep(now)) for rank in range(4)]

    assert watched(seen, 299) == []
    assert watched(seen, 301) == [("deadlocked", None)]


def test_ranks_that_wait_for_another_machine_are_given_the_time_of_its_work() -> None:
    def seen(now: float) -> list[Look]:
        return [look(rank, waiting=True, vitals=busy(now)) for rank in range(2)]

    assert watched(seen, 1700, limits_for("ascend", 2)) == []
    assert watched(seen, 130, limits_for("ascend", 1)) == [("deadlocked", None)]


def test_time_in_which_the_launcher_itself_slept_does_not_count() -> None:
    watch = Watch(CPU_LIMITS, START)
    ranks = [look(0, vitals=asleep(START)), look(1, waiting=True)]
    assert watch.look(START, ranks) == ()
    later = START + 3600
    assert watch.look(later, ranks) == ()
    for tick in range(1, 57):
        assert watch.look(later + tick * STEP_S, ranks) == ()
    found = [watch.look(later + tick * STEP_S, ranks) for tick in range(57, 64)]
    assert [one.kind for one in found[-1]] == ["hung"]


def test_a_mark_starts_the_time_anew() -> None:
    watch = Watch(CPU_LIMITS, START)
    for tick in range(200):
        now = START + tick * STEP_S
        marked = START + (now - START) // 10 * 10
        ranks = [look(0, counter=int(marked), marked_at=marked, vitals=asleep(now))]
        assert watch.look(now, ranks) == (), now


def test_the_gravest_comes_first() -> None:
    watch = Watch(CPU_LIMITS, START)
    ranks = [look(0, vitals=busy(START)), look(1)]
    watch.look(START, ranks)
    for tick in range(1, 70):
        ranks = [look(0, vitals=busy(START + tick)), replace(ranks[1], vitals=None)]
        found = watch.look(START + tick * STEP_S, ranks)
    assert [(one.kind, one.rank) for one in found] == [("dead", 1), ("hung", 0)]
    assert watch.last_seen_alive(1) == START
