"""The steps that were asked for are profiled, no others, and a profiler that fails does not stop a run."""

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
from typing import Any, cast

import pytest
import qvl_train.profiling as profiling
from qvl_core.launch import board
from qvl_core.launch.board import BoardReader, BoardWriter, board_file
from qvl_core.launch.watch import CPU_LIMITS, Look, Verdict, Vitals, Watch
from qvl_train.profiling import _NO_PATH, StepProfile, step_profile


class Profiler:
    """Stands for MindSpore's: notes what is asked of it, and leaves a trace where it is stopped."""

    def __init__(self, calls: list[str], *, fails: str = "", leaves: bool = True) -> None:
        self._calls = calls
        self._fails = fails
        self._leaves = leaves
        self._folder = Path()
        self._steps = 0

    def make(self, folder: Path, steps: int) -> Any:
        self._folder = folder
        self._steps = steps
        return self

    def start(self) -> None:
        self._note(f"start {self._steps}")

    def step(self) -> None:
        self._note("step")

    def stop(self) -> None:
        self._note("stop")
        if self._leaves:
            (self._folder / "trace_view.json").write_text("[]")

    def _note(self, call: str) -> None:
        self._calls.append(call)
        if self._fails and call.startswith(self._fails):
            raise RuntimeError("no such\ndevice")


def run(
    folder: Path, steps: tuple[int, int] | None, taken: range, profiler: Profiler, marks: list[str] | None = None
) -> list[str]:
    said: list[str] = []
    mark = (marks if marks is not None else []).append
    with StepProfile(folder / "rank_000", steps, profiler.make, say=said.append, mark=mark) as profile:
        for step in taken:
            profile.before(step)
            profile.after(step)
    return said


@pytest.mark.parametrize(
    ("steps", "taken", "calls"),
    [
        ((10, 12), range(1, 20), ["start 3", "step", "step", "step", "stop"]),
        ((1, 1), range(1, 5), ["start 1", "step", "stop"]),
        # The run went on in the middle of them, or ended there.
        ((10, 12), range(12, 20), ["start 1", "step", "stop"]),
        ((10, 12), range(1, 12), ["start 3", "step", "step", "stop"]),
        ((10, 12), range(13, 20), []),
        (None, range(1, 20), []),
    ],
)
def test_profiles_the_steps_that_were_asked_for(
    tmp_path: Path, steps: tuple[int, int] | None, taken: range, calls: list[str]
) -> None:
    found: list[str] = []
    said = run(tmp_path, steps, taken, Profiler(found))
    assert found == calls
    assert said == ([f"profile written to {tmp_path / 'rank_000'}"] if calls else [])


def test_writing_is_marked_as_work_of_its_own_so_that_nobody_takes_it_for_a_step_that_hangs(tmp_path: Path) -> None:
    calls: list[str] = []
    # One list: what is marked before the profiler is asked for something that takes long.
    run(tmp_path, (2, 3), range(1, 6), Profiler(calls), calls)
    assert calls == [
        *("starting the profiler", "start 2", "step 2"),
        *("counting a step of the profile", "step", "step 2"),
        *("writing the profile", "step", "writing the profile", "stop", "step 3"),
    ]


def test_writing_is_measured_by_no_step_that_came_before(tmp_path: Path) -> None:
    reader = BoardReader(tmp_path, [0])
    writer = BoardWriter(board_file(tmp_path, 0))
    seen: dict[str, float | None] = {}

    class Slow(Profiler):
        def stop(self) -> None:
            (entry,) = reader.entries()
            seen[entry.state] = entry.longest_s

    for step in range(1, 4):
        writer.mark(f"step {step}")
    with StepProfile(tmp_path, (4, 4), Slow([]).make, say=lambda text: None, mark=writer.mark) as profile:
        profile.before(4)
        profile.after(4)
    # None: work of a kind that was never done before has the time that loading and compiling have.
    assert seen == {"writing the profile": None}
    reader.close()


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


def test_a_run_that_ends_while_it_is_profiled_marks_the_writing_too(tmp_path: Path) -> None:
    calls: list[str] = []
    run(tmp_path, (2, 9), range(1, 3), Profiler(calls), calls)
    assert calls[-2:] == ["writing the profile", "stop"]


@pytest.mark.parametrize("fails", ["start", "step", "stop"])
def test_a_profiler_that_fails_costs_a_warning(tmp_path: Path, fails: str) -> None:
    found: list[str] = []
    said = run(tmp_path, (2, 3), range(1, 9), Profiler(found, fails=fails))
    assert said == ["warning: no profile: RuntimeError: no such"]
    assert len([call for call in found if call.startswith(fails)]) == 1


def test_a_profiler_that_leaves_nothing_is_told(tmp_path: Path) -> None:
    (said,) = run(tmp_path, (1, 1), range(1, 2), Profiler([], leaves=False))
    assert said.startswith("warning: the profiler has written no trace_view.json")


def test_an_older_try_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "rank_000" / "old").mkdir(parents=True)
    run(tmp_path, (1, 1), range(1, 2), Profiler([]))
    assert [entry.name for entry in (tmp_path / "rank_000").iterdir()] == ["trace_view.json"]


def test_a_full_disk_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "rank_000").write_text("a file in its place")
    found: list[str] = []
    (said,) = run(tmp_path, (1, 1), range(1, 2), Profiler(found))
    assert said.startswith("warning: no profile: ")
    assert found == []


@pytest.mark.parametrize(("dp", "tp", "expected"), [(0, 0, True), (1, 0, False), (0, 1, False)])
def test_one_process_of_each_stage_is_profiled(tmp_path: Path, dp: int, tp: int, expected: bool) -> None:
    world = SimpleNamespace(rank=3, place=SimpleNamespace(dp=dp, tp=tp, pp=1))
    profile = step_profile(tmp_path, (1, 1), cast("Any", world), lambda text: None, total=9)
    assert (profile._steps is not None) is expected
    assert profile._folder == tmp_path / "profile" / "rank_003"


def test_marks_are_the_phase_of_the_rank_and_other_ranks_speak_to_their_logs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = SimpleNamespace(rank=2, place=SimpleNamespace(dp=0, tp=0, pp=1), phase="step 1")
    said: list[str] = []
    profile = step_profile(tmp_path, (1, 1), cast("Any", world), said.append, total=9)
    profile._make = Profiler([], fails="step").make
    profile.before(1)
    profile._mark("writing the profile")
    assert world.phase == "writing the profile"
    profile.after(1)
    assert world.phase == "step 1"
    assert said == []
    assert "no profile: RuntimeError" in caplog.text


def test_steps_after_the_end_of_a_run_that_counts_epochs_are_told(tmp_path: Path) -> None:
    world = SimpleNamespace(rank=0, place=SimpleNamespace(dp=0, tp=0, pp=0), phase="")
    said: list[str] = []
    step_profile(tmp_path, (10, 12), cast("Any", world), said.append, total=9)
    assert said == ["warning: nothing is profiled: train.log.profile begins with step 10, the run has 9"]
    step_profile(tmp_path, (8, 12), cast("Any", world), said.append, total=9)
    assert len(said) == 1


def test_a_path_that_the_profiler_refuses_is_told_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = SimpleNamespace(rank=0, place=SimpleNamespace(dp=0, tp=0, pp=0), phase="")
    said: list[str] = []

    def told(folder: Path, steps: tuple[int, int] | None = (1, 2)) -> str:
        said.clear()
        step_profile(folder, steps, cast("Any", world), said.append, total=9)
        assert len(said) <= 1
        return said[0] if said else ""

    (tmp_path / "a=b").mkdir()
    for name in ("run", "run 1", "~run_1-a.b", "\u6a21\u578b"):
        assert told(tmp_path / name) == ""
    assert told(tmp_path / "lr=1e-3", None) == ""
    text = told(tmp_path / "lr=1e-3,b")
    assert text.startswith("warning: MindSpore's profiler takes no path with , = in it")
    assert f"{tmp_path}/lr=1e-3,b/profile/rank_000; choose another output.dir" in text
    (tmp_path / "plain").symlink_to("a=b")
    assert "no path with = in it" in told(tmp_path / "plain")
    (tmp_path / "link=odd").symlink_to("folder")
    assert told(tmp_path / "link=odd") == ""
    monkeypatch.chdir(tmp_path / "a=b")
    assert "start qvl from another folder" in told(Path("run"))
    assert "start qvl from another folder" in told(tmp_path / "run")


def test_mindspores_profiler_refuses_the_paths_that_are_told(tmp_path: Path) -> None:
    """The characters are those of its own code: a release that takes more, or fewer, is noticed here."""
    paths = pytest.importorskip("mindspore.profiler.common.path_manager")
    check = paths.PathManager.check_input_directory_path
    for code in [*range(32, 0x180), 0x4E00, 0x9FA5, 0x9FA6, 0xFF0C]:
        path = f"/runs/a{chr(code)}b"
        try:
            check(path)
        except Exception:
            assert _NO_PATH.search(path), hex(code)
        else:
            assert not _NO_PATH.search(path), hex(code)


def test_mindspores_profiler_leaves_a_trace_of_the_steps(tmp_path: Path) -> None:
    ms = pytest.importorskip("mindspore")
    import numpy as np
    from qvl_train.profiling import make_profiler
    from qvl_train.report.profile_card import read_operations

    said: list[str] = []
    left = ms.Tensor(np.ones((8, 8), np.float32))
    place = tmp_path / "rank_000"
    with StepProfile(place, (2, 3), make_profiler, say=said.append, mark=lambda text: None) as profile:
        for step in range(1, 5):
            profile.before(step)
            ms.mint.matmul(left, left).asnumpy()
            profile.after(step)
    assert said == [f"profile written to {tmp_path / 'rank_000'}"]
    (trace,) = (tmp_path / "rank_000").glob("**/trace_view.json")
    assert {one.name: one.calls for one in read_operations(trace)}["MatMul"] == 2
