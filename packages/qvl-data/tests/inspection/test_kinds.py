"""Kinds of problems in the order in which they are read."""

from __future__ import annotations

from typing import get_args

from qvl_core.errors import Problem
from qvl_data.inspection.kinds import TITLES, ProblemGroup, in_order
from qvl_data.records.problem_list import Kind

PROBLEM = Problem(where="a.json:1", message="wrong")


def test_every_kind_of_the_pass_has_a_title() -> None:
    assert set(get_args(Kind)) <= TITLES.keys()


def test_errors_stand_before_warnings_and_empty_groups_go() -> None:
    groups = [
        ProblemGroup(kind="duplicate", count=2, examples=(PROBLEM,), is_error=False),
        ProblemGroup(kind="media", count=1, examples=(PROBLEM,)),
        ProblemGroup(kind="role", count=0, examples=()),
        ProblemGroup(kind="unheard of", count=1, examples=(PROBLEM,)),
        ProblemGroup(kind="missing", count=1, examples=(PROBLEM,)),
    ]
    assert [group.kind for group in in_order(groups)] == ["missing", "media", "unheard of", "duplicate"]
    assert in_order(groups)[2].title == TITLES["other"]
