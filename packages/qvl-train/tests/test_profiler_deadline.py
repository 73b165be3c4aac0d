"""A profiler that does not come back costs a warning: neither the run nor the watchdog's verdict hangs on it."""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.process
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import qvl_train.profiling as profiling
from qvl_core.launch import board
from qvl_core.launch.board import BoardReader, BoardWriter, board_file
from qvl_core.launch.watch import CPU_LIMITS, Look, Verdict, Vitals, Watch
from qvl_train.profiling import StepProfile
from stand_in_profiler import Profiler, run


class Hanging(Profiler):
    """One that never comes back from `hangs`, in the way that `how` hangs."""

    def __init__(self, hangs: str, how: Callable[[], object]) -> None:
        super().__init__([])
        self._hangs = hangs
        self._how = how

    def _note(self, call: str) -> None:
        super()._note(call)
        if call.startswith(self._hangs):
            self._how()


def let_the_deadline_come() -> None:
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    assert 0 < left <= profiling.PROFILE_DEADLINE_S
    signal.setitimer(signal.ITIMER_REAL, 0.001)


def wait_for_ever() -> None:
    let_the_deadline_come()
    threading.Event().wait()


def wait_and_catch_all() -> None:
    with suppress(Exception):
        wait_for_ever()


HANGING = [
    ("start", "starting the profiler"),
    ("step", "counting a step of the profile"),
    ("stop", "writing the profile"),
]


@pytest.mark.parametrize(("hangs", "what"), HANGING)
@pytest.mark.parametrize("how", [wait_for_ever, wait_and_catch_all])
def test_a_profiler_that_hangs_costs_a_warning_and_training_goes_on(
    tmp_path: Path, hangs: str, what: str, how: Callable[[], object]
) -> None:
    before = signal.getsignal(signal.SIGALRM)
    marks: list[str] = []
    said = run(tmp_path, (2, 3), range(1, 9), Hanging(hangs, how), marks)
    assert said == [f"warning: no profile: {what} was not done after 600 s; training goes on without it"]
    assert marks[-1].startswith("step ")
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.parametrize("hangs", ["start", "step", "stop"])
def test_a_profiler_that_hangs_is_not_asked_again_when_nobody_holds_it(tmp_path: Path, hangs: str) -> None:
    deleted: list[str] = []

    class StopsWhenDeleted(Hanging):
        def __del__(self) -> None:
            deleted.append("stop")

    def make(folder: Path, steps: int) -> Any:
        return StopsWhenDeleted(hangs, wait_for_ever).make(folder, steps)

    with StepProfile(tmp_path / "rank_000", (2, 3), make, say=lambda text: None, mark=lambda text: None) as profile:
        for step in range(1, 9):
            profile.before(step)
            profile.after(step)
    gc.collect()
    assert deleted == []


IDLE = Vitals(state="S", cpu_s=0.0)


class WatchedRanks:
    """Two ranks under the launcher's own watch, by a clock of their own: the first is idle, the second waits for it."""

    def __init__(self, folder: Path) -> None:
        self.now_s = 0.0
        self.verdicts: list[tuple[float, Verdict]] = []
        self._reader = BoardReader(folder, [0, 1])
        self.first, second = (BoardWriter(board_file(folder, rank)) for rank in (0, 1))
        self.first.begin()
        second.begin()
        second.mark("waiting", waiting=True)
        self._watch = Watch(CPU_LIMITS, self.now_s)

    def pass_by(self, seconds: float) -> None:
        """Let time pass, and look each second."""
        for _ in range(int(seconds)):
            self.now_s += 1
            self.verdicts += [(self.now_s, verdict) for verdict in self._watch.look(self.now_s, self._looks())]

    def close(self) -> None:
        self._reader.close()

    def _looks(self) -> list[Look]:
        return [
            Look(**{key: value for key, value in vars(entry).items() if key != "stamps"}, vitals=IDLE)
            for entry in self._reader.entries()
        ]


@pytest.mark.parametrize(("hangs", "what"), HANGING)
def test_the_watchdog_of_several_processes_leaves_a_late_profiler_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: str, what: str
) -> None:
    ranks, hangs_now, is_over = WatchedRanks(tmp_path), threading.Event(), threading.Event()

    class Passing(threading.Event):
        """While the profiler hangs nobody waits at it: the ranks' time passes instead."""

        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            while not self.is_set() and not hangs_now.is_set():
                super().wait(0.01)
            if not self.is_set() and not is_over.is_set():
                ranks.pass_by(timeout)
            return self.is_set()

    def hang() -> None:
        hangs_now.set()
        is_over.wait(20)

    def say(text: str) -> None:
        if "it hangs" in text:
            ranks.pass_by(60)
            is_over.set()

    monkeypatch.setattr(board, "time", SimpleNamespace(monotonic=lambda: ranks.now_s))
    monkeypatch.setattr(profiling, "threading", SimpleNamespace(**{**vars(threading), "Event": Passing}))
    hanging = Hanging(hangs, hang)
    with StepProfile(tmp_path / "rank_000", (1, 2), hanging.make, say=say, mark=ranks.first.mark) as profile:
        for step in (1, 2):
            profile.before(step)
            profile.after(step)
    ranks.close()
    # Left alone while it is told, and ended once it is told that it hangs.
    found_s, verdict = ranks.verdicts[0]
    assert found_s > profiling.PROFILE_DEADLINE_S
    assert verdict.look is not None
    assert (verdict.kind, verdict.rank, verdict.look.state) == ("hung", 0, f"{what}: it hangs")


def test_processes_that_a_hanging_profiler_has_forked_are_ended(tmp_path: Path) -> None:
    others = multiprocessing.get_context("fork").Process(target=threading.Event().wait)
    others.start()
    found: list[multiprocessing.process.BaseProcess] = []

    def fork_and_join() -> None:
        child = multiprocessing.get_context("fork").Process(target=threading.Event().wait)
        found.append(child)
        child.start()
        let_the_deadline_come()
        child.join()

    try:
        (said,) = run(tmp_path, (1, 1), range(1, 2), Hanging("stop", fork_and_join))
        assert "was not done after" in said
        assert [child.exitcode for child in found] == [-signal.SIGKILL]
        assert others.is_alive()
    finally:
        others.kill()
        others.join()


def test_a_profiler_that_cannot_be_called_back_is_told_and_left_to_the_watchdog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiling, "_TOLD_EVERY_S", 0.01)
    monkeypatch.setattr(profiling, "PROFILE_DEADLINE_S", 0.05)
    monkeypatch.setattr(profiling, "_GRACE_S", 0.0)
    is_told = threading.Event()
    told: list[str] = []
    marks: list[str] = []

    def say(text: str) -> None:
        told.append(text)
        is_told.set()

    def profile() -> None:
        # Of another thread than the main one nothing can be called back, as of native code.
        hanging = Hanging("stop", lambda: is_told.wait(60))
        with StepProfile(tmp_path / "rank_000", (1, 1), hanging.make, say=say, mark=marks.append) as found:
            found.before(1)
            found.after(1)

    thread = threading.Thread(target=profile)
    thread.start()
    thread.join(120)
    assert told[0].startswith("warning: writing the profile was not done after 0.05 s and cannot be called back")
    # Five times while there was time, once for the profiler's last step, once as it began, and then no more.
    assert marks[-8:-1] == [*["writing the profile"] * 6, "writing the profile: it hangs"]
    assert marks[-1] == "step 1"
