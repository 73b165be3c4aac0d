"""Whose failure is reported when several ranks have failed."""

from __future__ import annotations

import pytest
from qvl_core.launch.blame import StarterReport, by_exit_code, first_to_fail, starter_report
from qvl_core.launch.failures import Failure
from qvl_core.launch.watch import Look, Vitals

BY_SIGNAL = """\
--------------------------------------------------------------------------
prterun noticed that process rank 1 with PID 9588 on node vm exited on
signal 9 (Killed).
"""
BY_CODE = """\
prterun detected that one or more processes exited with non-zero status,
thus causing the job to be terminated. The first process to do so was:

   Process name: [prterun-vm-9571@1,2]
   Exit code:    7
"""
# Open MPI 4.
OLDER = "mpirun noticed that process rank 3 with PID 0 on node vm exited on signal 11 (Segmentation fault)."
MSRUN = (
    "[ERROR] ME(27:140,MainProcess):2026-11-27 [mindspore/a.py:1] Worker process 7 exit with exception. Error code: {}."
)
OLDER_CODE = "  Process name: [[49152,1],3]\n  Exit code:    1\n"


def failure(rank: int, moment: float, code: int = 1) -> Failure:
    return Failure(rank=rank, exit_code=code, text=f"of {rank}", moment=moment, log_bytes=0)


def gone(rank: int, process: int = 7, *, waiting: bool = False) -> Look:
    values = {"counter": 3, "marked_at": 1.0, "longest_s": None, "waits": 0, "waiting": waiting, "done": False}
    return Look(rank=rank, process=process, state="", vitals=None, **values)


def first(failures=(), silent=(), report=None, alive=None, looks=()):
    found = first_to_fail(looks, failures, silent, report, (alive or {}).get)
    return None if found is None else (type(found).__name__, found.rank)


def test_what_mpiexec_says_of_the_first_death_is_understood() -> None:
    assert starter_report(BY_SIGNAL) == StarterReport(rank=1, signal_number=9)
    assert starter_report(BY_CODE) == StarterReport(rank=2, exit_code=7)
    assert starter_report(OLDER) == StarterReport(rank=3, signal_number=11)
    assert starter_report(OLDER_CODE) == StarterReport(rank=3, exit_code=1)
    assert starter_report("all is well") is None


def uncertain(rank: int, **how: int) -> StarterReport:
    return StarterReport(rank=rank, **how, is_first=False)


def test_what_msrun_says_of_a_process_is_told_of_its_rank() -> None:
    looks = [gone(0, process=6), gone(1, process=7)]
    assert starter_report(MSRUN.format(-11), looks) == uncertain(1, signal_number=11)
    assert starter_report(MSRUN.format(5), looks) == uncertain(1, exit_code=5)
    # Of a process that never became a rank: it was the only one that had not.
    waiting, busy = gone(0, process=6, waiting=True), gone(0, process=6)
    assert starter_report(MSRUN.format(5), [waiting, gone(1, process=0)]) == uncertain(1, exit_code=5)
    # The unknown process may be a wrapper around the rank that is gone.
    assert starter_report(MSRUN.format(5), [busy, gone(1, process=0)]) is None
    assert starter_report(MSRUN.format(5), [gone(0, process=0), gone(1, process=0)]) is None
    assert starter_report(MSRUN.format(5), [gone(0, process=6)]) is None


def test_msrun_does_not_know_who_was_first_among_those_that_had_begun() -> None:
    # Rank 1 was killed; rank 0 told of the lost connection and left within the same second, and has the lower number.
    report = uncertain(0, exit_code=1)
    looks = [gone(0), gone(1)]
    assert first([failure(0, 5.0)], [gone(1)], report, alive={1: 4.8}, looks=looks) == ("Look", 1)
    assert first((), [gone(1), gone(0)], report, looks=looks) == ("Look", 1)
    # Of one that never began nobody else knows anything.
    absent = gone(1, process=0)
    assert first([failure(0, 5.0)], (), uncertain(1, signal_number=11), looks=[gone(0), absent]) == ("Look", 1)


def test_of_several_errors_the_earliest_counts() -> None:
    assert first([failure(2, 5.0), failure(0, 6.0)]) == ("Failure", 2)


def test_an_error_counts_before_the_death_of_a_peer_that_outlived_it_and_not_before_an_earlier_one() -> None:
    assert first([failure(0, 5.0)], [gone(1)], alive={1: 5.2}) == ("Failure", 0)
    assert first([failure(0, 5.0)], [gone(1)], alive={1: 4.8}) == ("Look", 1)


def test_mpiexec_knows_which_of_the_silent_died_first() -> None:
    report = StarterReport(rank=3, signal_number=9)
    assert first((), [gone(1), gone(3)], report) == ("Look", 3)
    assert first([failure(0, 5.0)], [gone(3)], report, alive={3: 9.0}) == ("Look", 3)


def test_a_rank_that_died_before_it_said_anything_is_found() -> None:
    report = StarterReport(rank=1, exit_code=1)
    told_to_end = failure(0, 5.0, code=130)
    assert first([told_to_end], (), report, looks=[gone(1, process=0)]) == ("Look", 1)


def test_being_told_to_end_is_a_consequence_unless_there_is_nothing_else() -> None:
    assert first([failure(0, 5.0, code=130), failure(1, 6.0)]) == ("Failure", 1)
    assert first([failure(0, 5.0, code=130)]) == ("Failure", 0)
    assert first() is None
    assert Vitals(state="R", cpu_s=0.0).disk_bytes == 0


def test_a_signal_is_read_from_the_exit_code_of_mpiexec_where_one_rank_is_gone() -> None:
    looks = [gone(0), gone(1)]
    assert by_exit_code(137, looks, (), [gone(1)]) == StarterReport(rank=1, signal_number=9)
    assert by_exit_code(137, looks, (), [gone(0), gone(1)]) is None
    assert by_exit_code(1, looks, (), [gone(1)]) is None
    # Not every number above 128 is a signal's: a rank may have ended with 255 of its own.
    assert by_exit_code(255, looks, (), [gone(1)]) is None
    absent = gone(1, process=0)
    assert by_exit_code(255, [gone(0), absent], [failure(0, 5.0, code=130)], ()) == StarterReport(rank=1, exit_code=255)


def test_a_rank_that_never_began_is_what_waiting_ranks_ended_for_where_mpiexec_says_nothing() -> None:
    waiting, absent = gone(0, waiting=True), gone(1, process=0)
    # Told to end by mpiexec, in time to say so: then it was the other.
    told = [failure(0, 5.0, code=130)]
    sure = StarterReport(rank=1, exit_code=5)
    assert by_exit_code(5, [waiting, absent], told, ()) == sure
    assert first(told, (), sure, looks=[waiting, absent]) == ("Look", 1)
    # Gone without a word while it was connecting: it may have died of that.
    guess = StarterReport(rank=1, exit_code=5, is_first=False)
    assert by_exit_code(5, [waiting, absent], (), [waiting]) == guess
    assert by_exit_code(139, [waiting, absent], (), [waiting]) == uncertain(1, signal_number=11)
    assert first((), [waiting], guess, looks=[waiting, absent]) == ("Look", 1)


@pytest.mark.parametrize("code", [5, 137, 139])
def test_nobody_is_blamed_by_an_exit_code_for_what_others_may_have_done(code: int) -> None:
    waiting, busy, absent = gone(0, waiting=True), gone(0), gone(1, process=0)
    # It was doing something of its own; it raised an error; there are two that never began; nobody has.
    assert by_exit_code(code, [busy, absent], (), [busy]) is None
    assert by_exit_code(code, [busy, absent, gone(2, process=0)], (), [busy]) is None
    assert by_exit_code(code, [waiting, absent], [failure(0, 5.0)], ()) is None
    assert by_exit_code(code, [waiting, absent, gone(2, process=0)], (), [waiting]) is None
    assert by_exit_code(code, [absent], (), ()) is None
    assert by_exit_code(0, [waiting, absent], (), [waiting]) is None


def test_one_that_told_its_error_and_ended_first_counts_however_seldom_the_launcher_looked() -> None:
    # Rank 1 was last seen before the error of rank 0, whose end mpiexec answered by ending rank 1.
    report = StarterReport(rank=0, exit_code=1)
    assert first([failure(0, 5.0)], [gone(1)], report, alive={1: 4.0}) == ("Failure", 0)
