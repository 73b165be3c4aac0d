"""The steps that were asked for are profiled, no others, and a profiler that fails does not stop a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from qvl_core.launch.board import BoardReader, BoardWriter, board_file
from qvl_train.profiling import StepProfile, step_profile
from stand_in_profiler import Profiler, run


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


def test_a_path_that_the_profiler_refuses_is_told_before_the_first_step(tmp_path: Path) -> None:
    world = SimpleNamespace(rank=0, place=SimpleNamespace(dp=0, tp=0, pp=0), phase="")
    said: list[str] = []
    for steps in (None, (1, 2)):
        step_profile(tmp_path / "lr=1e-3", steps, cast("Any", world), said.append, total=9)
    (text,) = said
    assert text.startswith("warning: MindSpore's profiler takes no path with = in it")
    assert f"{tmp_path}/lr=1e-3/profile/rank_000; choose another output.dir" in text


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
