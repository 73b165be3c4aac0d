"""Sharing out what is left: every row once, whatever is done and however many replicas there are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from qvl_core.errors import OutputError, RunError
from qvl_eval.replica import wait_for_others
from qvl_eval.work_plan import PLAN_NAME, make_plan, read_plan, spread

ROWS = [str(number) for number in range(23)]


@pytest.mark.parametrize("replicas", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("done", [(), ROWS[:5], ROWS[::2], ROWS])
@pytest.mark.parametrize("preflight", [0, 4, 100])
def test_every_row_that_is_left_is_answered_once(replicas: int, done: list[str], preflight: int) -> None:
    plan = make_plan(ROWS, dict.fromkeys(done), "p", preflight=preflight)
    shares = [plan.share(replica, replicas) for replica in range(replicas)]
    found = [*plan.preflight, *(index for share in shares for index in share)]
    assert sorted(found) == sorted(set(ROWS) - set(done))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("count", "expected"), [(0, ()), (1, ("0",)), (3, ("0", "7", "15")), (99, tuple(ROWS))])
def test_the_first_rows_are_spread_over_the_file(count: int, expected: tuple[str, ...]) -> None:
    assert spread(ROWS, count) == expected


def test_a_plan_is_read_back_by_processes_with_the_same_protocol_only(tmp_path: Path) -> None:
    plan = make_plan(ROWS, {}, "p", preflight=4)
    plan.write(tmp_path)
    assert read_plan(tmp_path, "p") == plan
    with pytest.raises(OutputError, match="not the same on all machines"):
        read_plan(tmp_path, "q")
    (tmp_path / PLAN_NAME).write_text("{}")
    with pytest.raises(RunError, match="is not the plan of a run"):
        read_plan(tmp_path, "p")


@pytest.mark.parametrize(("counts", "looks"), [([5], 0), ([1, 2, 2, 5], 3), ([1, 2, 2, 2, 2], 4)])
def test_a_replica_waits_for_the_answers_of_others_but_not_for_ever(counts: list[int], looks: int) -> None:
    left = iter(counts)
    marks: list[str] = []
    count: Any = SimpleNamespace(update=lambda: next(left))
    wait_for_others(count, 5, lambda: marks.append("waiting"), sleep=lambda _: None, patience=3)
    assert len(marks) == looks
    assert next(left, None) is None
