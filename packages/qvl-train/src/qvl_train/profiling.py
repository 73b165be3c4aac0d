"""MindSpore's profiler on some steps of a run: what `train.log.profile` asks for.

One process of each pipeline stage is profiled, the first replica's first slice: the others of its stage do the same.
What the profiler writes goes to `profile/rank_NNN/`. A profiler that fails costs its trace and a warning, not the run.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvl_core.device import current_device
from qvl_core.durable import explained, make_folder, remove_folder

if TYPE_CHECKING:
    from qvl_core.parallel.world import World

_log = logging.getLogger(__name__)

PROFILE = "profile"
TRACE = "trace_view.json"
_WRITING = "writing the profile"
# A trace of many steps of a large model takes minutes of computing. What takes longer than this is a hang.
_MOST_WRITING_S = 1800.0
_TOLD_EVERY_S = 5.0


class StepProfile:
    """Profiles the steps from `first` to `last`, both included. Call `before` and `after` around each step.

    Use it as a context manager: a run that ends early leaves no profiler running.
    """

    def __init__(
        self,
        folder: Path,
        steps: tuple[int, int] | None,
        start: Callable[[Path, int], Any],
        *,
        say: Callable[[str], None],
        mark: Callable[[str], None],
    ) -> None:
        """`start` starts a profiler of so many steps that writes into a folder, and gives it; it has `step`, `stop`.

        `say` shows a line to people, `mark` tells whoever watches this process what it does from now on.
        """
        self._folder = folder
        self._steps = steps
        self._start = start
        self._say = say
        self._mark = mark
        self._profiler: Any = None

    def before(self, step: int) -> None:
        """Start the profiler where this is the first step to be profiled, or one of them after a run went on."""
        if self._steps is None or self._profiler is not None or not self._steps[0] <= step <= self._steps[1]:
            return
        self._mark("starting the profiler")
        try:
            with explained(self._folder):
                # Of an earlier try: two traces of the same steps would be counted twice.
                if self._folder.is_dir():
                    remove_folder(self._folder)
                make_folder(self._folder)
                if not self._folder.is_dir():
                    raise NotADirectoryError(errno.ENOTDIR, "a file is in its place", str(self._folder))
            self._profiler = self._start(self._folder, self._steps[1] - step + 1)
        except Exception as error:  # whatever the profiler has, training is not about it
            self._give_up(error)
        self._mark(f"step {step}")

    def after(self, step: int) -> None:
        """Count the step, and stop the profiler after the last one."""
        if self._profiler is None or self._steps is None:
            return
        is_last = step >= self._steps[1]
        # With the last one the profiler writes what it has.
        with self._writing() if is_last else nullcontext():
            try:
                self._profiler.step()
            except Exception as error:
                self._give_up(error)
        if is_last:
            self._stop()
            self._mark(f"step {step}")

    def __enter__(self) -> StepProfile:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def _stop(self) -> None:
        profiler, self._profiler = self._profiler, None
        if profiler is None:
            return
        with self._writing():
            try:
                profiler.stop()
            except Exception as error:
                self._give_up(error)
                return
        if any(self._folder.glob(f"**/{TRACE}")):
            self._say(f"profile written to {self._folder}")
        else:
            self._say(f"warning: the profiler has written no {TRACE} to {self._folder}")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Tell whoever watches, again and again, that the profiler writes: it takes longer than steps do."""
        is_done = threading.Event()

        def tell() -> None:
            for _ in range(int(_MOST_WRITING_S / _TOLD_EVERY_S)):
                if is_done.wait(_TOLD_EVERY_S):
                    return
                self._mark(_WRITING)

        self._mark(_WRITING)
        teller = threading.Thread(target=tell, name="writing the profile", daemon=True)
        teller.start()
        try:
            yield
        finally:
            is_done.set()
            teller.join()

    def _give_up(self, error: Exception) -> None:
        self._steps = self._profiler = None
        first = next(iter(str(error).splitlines()), "")
        self._say(f"warning: no profile: {type(error).__name__}: {first[:200]}")


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

    def mark(text: str) -> None:
        world.phase = text

    # What other ranks say to people goes nowhere; a profile that failed has to be in their logs.
    tell = say if world.rank == 0 else _log.warning
    return StepProfile(place, steps if is_one else None, start_profiler, say=tell, mark=mark)


def start_profiler(folder: Path, steps: int) -> Any:
    """Start MindSpore's profiler: framework and host, and the device where there is one (not verified on a device)."""
    from mindspore.profiler import ProfilerActivity, profile, schedule, tensorboard_trace_handler

    activities = [ProfilerActivity.CPU]
    if current_device() == "ascend":
        activities.append(ProfilerActivity.NPU)
    profiler = profile(
        activities=activities,
        start_profile=False,
        schedule=schedule(wait=0, warmup=0, active=steps, repeat=1),
        on_trace_ready=tensorboard_trace_handler(str(folder), analyse_flag=True),
    )
    profiler.start()
    return profiler
