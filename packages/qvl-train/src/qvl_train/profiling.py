"""MindSpore's profiler on some steps of a run: what `train.log.profile` asks for.

One process of each pipeline stage is profiled, the first replica's first slice: the others of its stage do the same.
What the profiler writes goes to `profile/rank_NNN/`. A profiler that fails costs a trace and a warning, not the run;
so does one that is late: it waits, in Python, for processes that it has forked to read its traces, and
is called back from there. One that hangs in native code cannot be; it is told, and left to the watchdog.
"""

from __future__ import annotations

import errno
import logging
import multiprocessing
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from qvl_core.device import current_device
from qvl_core.durable import explained, make_folder, remove_folder

from qvl_train.profile_path import refused_path

if TYPE_CHECKING:
    from qvl_core.parallel.world import World

_log = logging.getLogger(__name__)

PROFILE = "profile"
TRACE = "trace_view.json"
_STARTING = "starting the profiler"
_COUNTING = "counting a step of the profile"
_WRITING = "writing the profile"
# How long starting the profiler, counting a step, or writing what it has may take. Traces of a tiny model take
# seconds, those of a large one minutes.
PROFILE_DEADLINE_S = 600.0
_TOLD_EVERY_S = 5.0
# One that was called back after its deadline ends at once, where it can.
_GRACE_S = 30.0
# Profilers that did not come back. MindSpore's stops itself when nobody holds it any more, and would hang once more.
_ABANDONED: list[object] = []


class _LateError(BaseException):
    """The profiler is not done by its deadline. No Exception: what it catches itself would be lost."""


class StepProfile:
    """Profiles the steps from `first` to `last`, both included. Call `before` and `after` around each step.

    Use it as a context manager: a run that ends early leaves no profiler running.
    """

    def __init__(
        self,
        folder: Path,
        steps: tuple[int, int] | None,
        make: Callable[[Path, int], Any],
        *,
        say: Callable[[str], None],
        mark: Callable[[str], None],
    ) -> None:
        """`make` gives a profiler of so many steps that writes into a folder; it has `start`, `step` and `stop`.

        `say` shows a line to people, `mark` tells whoever watches this process what it does from now on.
        """
        self._folder = folder
        self._steps = steps
        self._make = make
        self._say = say
        self._mark = mark
        self._profiler: Any = None

    def before(self, step: int) -> None:
        """Start the profiler where this is the first step to be profiled, or one of them after a run went on."""
        if self._steps is None or self._profiler is not None or not self._steps[0] <= step <= self._steps[1]:
            return
        with self._told(_STARTING):
            self._call(lambda: self._begin(step), _STARTING)
        self._mark(f"step {step}")

    def after(self, step: int) -> None:
        """Count the step, and stop the profiler after the last one."""
        if self._profiler is None or self._steps is None:
            return
        is_last = step >= self._steps[1]
        # With the last one the profiler writes what it has.
        what = _WRITING if is_last else _COUNTING
        with self._told(what):
            self._call(self._profiler.step, what)
        if is_last:
            self._stop()
        self._mark(f"step {step}")

    def __enter__(self) -> StepProfile:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def _begin(self, step: int) -> None:
        assert self._steps is not None
        with explained(self._folder):
            # Of an earlier try: two traces of the same steps would be counted twice.
            if self._folder.is_dir():
                remove_folder(self._folder)
            make_folder(self._folder)
            if not self._folder.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "a file is in its place", str(self._folder))
        # Kept before it is started: one that is called back while it starts counts for itself as started already.
        self._profiler = self._make(self._folder, self._steps[1] - step + 1)
        self._profiler.start()

    def _stop(self) -> None:
        if self._profiler is None:
            return
        with self._told(_WRITING):
            if not self._call(self._profiler.stop, _WRITING):
                return
        self._profiler = None
        if any(self._folder.glob(f"**/{TRACE}")):
            self._say(f"profile written to {self._folder}")
        else:
            self._say(f"warning: the profiler has written no {TRACE} to {self._folder}")

    def _call(self, deed: Callable[[], object], what: str) -> bool:
        """Have the profiler do something, and say whether it has; else its trace is given up, with a warning."""
        known = set(multiprocessing.active_children())
        try:
            with _deadline(PROFILE_DEADLINE_S):
                deed()
        except _LateError:
            _ABANDONED.append(self._profiler)
            _end_children(known)
            self._give_up(f"{what} was not done after {PROFILE_DEADLINE_S:g} s; training goes on without it")
        except Exception as error:  # whatever the profiler has, training is not about it
            first = next(iter(str(error).splitlines()), "")
            self._give_up(f"{type(error).__name__}: {first[:200]}")
        else:
            return True
        return False

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Tell whoever watches, again and again, what the profiler does: it takes longer than steps do."""
        is_done = threading.Event()

        def tell() -> None:
            for _ in range(int((PROFILE_DEADLINE_S + _GRACE_S) / _TOLD_EVERY_S)):
                if is_done.wait(_TOLD_EVERY_S):
                    return
                self._mark(what)
            self._mark(f"{what}: it hangs")
            self._say(
                f"warning: {what} was not done after {PROFILE_DEADLINE_S:g} s and cannot be called back: "
                "it hangs. Where several processes train, the run is ended; else end it. "
                "Its checkpoints go on without train.log.profile"
            )

        self._mark(what)
        teller = threading.Thread(target=tell, name=what, daemon=True)
        teller.start()
        try:
            yield
        finally:
            is_done.set()
            teller.join()

    def _give_up(self, why: str) -> None:
        self._steps = self._profiler = None
        self._say(f"warning: no profile: {why}")


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise _LateError in the block once it has taken so long. Only the main thread can be called back so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(number: int, frame: FrameType | None) -> None:
        raise _LateError

    before = signal.signal(signal.SIGALRM, late)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        # None: somebody's that was not set from Python, and cannot be set from there.
        signal.signal(signal.SIGALRM, signal.SIG_DFL if before is None else before)


def _end_children(known: Collection[object]) -> None:
    """End the processes that the profiler has forked: the interpreter would wait for them when the run ends."""
    for child in multiprocessing.active_children():
        if child not in known:
            child.kill()
            child.join(_TOLD_EVERY_S)


def step_profile(
    folder: Path, steps: tuple[int, int] | None, world: World, say: Callable[[str], None], *, total: int
) -> StepProfile:
    """Give the profile of this rank: of nothing where it is not the one of its stage that is profiled.

    `total` is how many steps the run has: a recipe that counts epochs does not say it.
    """
    if steps is not None and steps[0] > total:
        say(f"warning: nothing is profiled: train.log.profile begins with step {steps[0]:,}, the run has {total:,}")
    is_one = world.place.dp == 0 and world.place.tp == 0
    place = folder / PROFILE / f"rank_{world.rank:03d}"
    if steps is not None and steps[0] <= total and (refused := refused_path(place)):
        # Before the first step, not after the profiled ones.
        say(f"warning: {refused}")

    def mark(text: str) -> None:
        world.phase = text

    # What other ranks say to people goes nowhere; a profile that failed has to be in their logs.
    tell = say if world.rank == 0 else _log.warning
    return StepProfile(place, steps if is_one else None, make_profiler, say=tell, mark=mark)


def make_profiler(folder: Path, steps: int) -> Any:
    """Give MindSpore's profiler: framework and host, and the device where there is one (not verified on a device)."""
    from mindspore.profiler import ProfilerActivity, profile, schedule, tensorboard_trace_handler

    activities = [ProfilerActivity.CPU]
    if current_device() == "ascend":
        activities.append(ProfilerActivity.NPU)
    return profile(
        activities=activities,
        start_profile=False,
        schedule=schedule(wait=0, warmup=0, active=steps, repeat=1),
        on_trace_ready=tensorboard_trace_handler(str(folder), analyse_flag=True),
    )
