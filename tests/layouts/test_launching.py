"""A case without a result has failed, whatever ended it, and nothing waits for ever: tried without MindSpore."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cases import Case
from launching import assign, run_cases
from qvl_core.launch.proc import all_statuses, command_of
from selection import selection

_STAGES = {"vision_stages": (4,), "text_stages": (4,)}
_GOOD = [Case(**_STAGES, tp=2), Case(**_STAGES, dp=3, accumulation=2), Case(**_STAGES, mix="text")]


def _run(
    cases: list[Case], folder: Path, work: str = "simple_work", limit_s: float = 300.0
) -> tuple[dict[str, list[int]], dict[str, str]]:
    found = run_cases(cases, folder, work=work, processes=3, case_limit_s=limit_s)
    assert set(found.results) | set(found.failures) == {case.name for case in cases}
    assert not set(found.results) & set(found.failures)
    return found.results, found.failures


def _left_over(folder: Path) -> list[str]:
    commands = [command_of(status.process) for status in all_statuses() if status.process != os.getpid()]
    return [command for command in commands if str(folder) in command]


def test_gives_the_results_of_every_rank(tmp_path: Path) -> None:
    results, failures = _run(_GOOD, tmp_path)
    assert results == {_GOOD[0].name: [1, 1], _GOOD[1].name: [3, 3, 3], _GOOD[2].name: [0]}
    assert failures == {}


def test_a_case_that_raises_fails_with_its_own_error_and_the_others_have_results(tmp_path: Path) -> None:
    bad = Case(**_STAGES, dp=2, accumulation=3, broken="raise")
    results, failures = _run([bad, *_GOOD], tmp_path)
    assert set(results) == {case.name for case in _GOOD}
    assert "ValueError: broken on purpose" in failures[bad.name]
    assert not _left_over(tmp_path)


def test_a_case_that_kills_its_process_fails_and_the_others_have_results(tmp_path: Path) -> None:
    bad = Case(**_STAGES, dp=3, accumulation=9, broken="crash")
    results, failures = _run([bad, *_GOOD], tmp_path)
    assert set(results) == {case.name for case in _GOOD}
    assert "was running when the launch ended" in failures[bad.name]
    assert not _left_over(tmp_path)


def test_a_case_that_hangs_is_ended_in_time_with_the_stack_of_the_rank_that_hangs(tmp_path: Path) -> None:
    bad = Case(**_STAGES, dp=2, accumulation=9, broken="hang")
    # Left alone it would hang for an hour. Sound cases add a number, and the first start has few of them beside it.
    results, failures = _run([bad, *_GOOD], tmp_path, limit_s=10.0)
    assert set(results) == {case.name for case in _GOOD}
    assert "made no progress for 10 s" in failures[bad.name]
    assert "sabotage.py" in failures[bad.name]
    assert not _left_over(tmp_path)


def test_a_program_that_does_not_start_fails_every_case(tmp_path: Path) -> None:
    results, failures = _run(_GOOD, tmp_path, work="no_such_work")
    assert results == {}
    assert all("No module named 'no_such_work'" in text for text in failures.values())


@pytest.mark.parametrize("processes", [8, 11])
def test_every_case_gets_as_many_different_ranks_as_it_needs(processes: int) -> None:
    for case, ranks in assign(selection(), processes):
        assert len(set(ranks)) == len(ranks) == case.world_size
        assert set(ranks) <= set(range(processes))
