"""The saves of a run beside its steps: when they begin, what is told of them, what a failing disk does to the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from qvl_core.errors import DiskError, QvlError
from qvl_core.recipe.sections import SETTLED_BYTES, TrainSection

from qvl_train.agreement import PRECEDENCE_S, together
from qvl_train.checkpoint import TrainingState
from qvl_train.commit import Origin
from qvl_train.guarded_reports import GuardedReports
from qvl_train.room import checkpoint_bytes
from qvl_train.save import Saved, Saver
from qvl_train.snapshot import Contents

if TYPE_CHECKING:
    from qvl_core.parallel.world import Json

    from qvl_train.job import Job


# How long a small checkpoint is waited for.
SETTLE_S = 2.0


class RunSaves:
    """Saves what `contents` gives, of which the optimizer's part is None where it is not wanted. Use it with `with`.

    All ranks make the same calls after the same steps; `message` goes into the exchange of every step, `hear` gets
    what all ranks had to tell in it.
    """

    def __init__(
        self, job: Job, train: TrainSection, reports: GuardedReports, contents: Callable[[], Contents]
    ) -> None:
        self._job = job
        self._train = train
        self._reports = reports
        self._contents = contents
        self._waited_s = 0.0
        # One rank decides for all: each counts its own machine's side files.
        size = cast("list[int]", job.world.exchange(checkpoint_bytes(job.recipe)))[0]
        self._settles = train.save.background and size <= SETTLED_BYTES
        self._has_settled = True
        origin = Origin(
            spec=job.recipe.spec,
            side_files=Path(job.recipe.weights.source),
            source_revision=job.source_revision,
            lora=job.recipe.lora,
        )
        self._saver = Saver(
            job.world,
            job.folder,
            origin,
            keep=train.save.keep,
            in_background=train.save.background,
            go_on=train.save.on_error == "continue",
        )

    def message(self) -> Json:
        """Give what the other ranks have to know: of a save, and of a disk too full for metrics."""
        message = {"save": self._saver.message(), "reports": self._reports.problem}
        return message if any(message.values()) else None

    def hear(self, messages: Sequence[Json]) -> None:
        """Take what all ranks had to tell. Raises, on all of them, what ends the run on any."""
        found = [cast("dict[str, Any]", message or {}) for message in messages]
        problem = next((one["reports"] for one in found if one.get("reports")), None)
        if problem is not None:
            with suppress(QvlError):
                self._saver.hear([one.get("save") for one in found])
                self._saver.finish()
            if self._reports.problem is None:
                # The launcher shows the first error of all: that has to be the one of the rank that it happened on.
                time.sleep(PRECEDENCE_S)
            raise DiskError(problem)
        saved = self._saver.hear([one.get("save") for one in found])
        if not self._has_settled:
            self._has_settled = True
            started = time.perf_counter()
            saved = saved or self._saver.settle(SETTLE_S)
            self._waited_s += time.perf_counter() - started
        self._tell(saved)

    def save(self, step: int) -> None:
        """Save what was reached after `step`: only begin to, where that goes on in the background."""
        self._begin(step)
        if not self._train.save.background:
            self._finish()

    def save_last(self, step: int) -> Path:
        """Save what was reached at the end, wait for it, and give the checkpoint. Raises DiskError whatever `on_error`.

        The same on every rank.
        """
        self._begin(step)
        saved = self._finish()
        assert saved is not None, "what begins ends"
        if saved.problem is not None:
            raise DiskError(saved.problem)
        return saved.path

    def end_early(self, messages: Sequence[Json]) -> None:
        """Finish what is under way before an error that all ranks raise after the same exchange."""
        with suppress(QvlError):
            self.hear(messages)
            self._finish()

    def require_reported(self) -> None:
        """Raise RunError on all ranks if the last numbers could not be written."""

        def check() -> None:
            if self._reports.problem is not None:
                raise DiskError(self._reports.problem)

        together(self._job.world, check)

    def __enter__(self) -> RunSaves:
        self._saver.prepare(self._contents())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._saver.__exit__(kind, error, trace)

    def _begin(self, step: int) -> None:
        """Copy what there is and begin to write it; an earlier save that is still under way is waited for."""
        started = time.perf_counter()
        if self._saver.is_busy:
            self._job.world.phase = f"waiting for the last save before saving step {step}"
            self._finish()
        self._waited_s = time.perf_counter() - started
        self._job.world.phase = f"saving step {step}"
        contents = self._contents()
        self._saver.start(self._state(step, has_optimizer=contents.optimizer is not None), contents)
        self._has_settled = not self._settles

    def _finish(self) -> Saved | None:
        saved = self._saver.finish()
        self._tell(saved)
        return saved

    def _state(self, step: int, *, has_optimizer: bool) -> TrainingState:
        job, train = self._job, self._train
        return TrainingState(
            step=step,
            consumed_samples=job.consumed_samples + (step - job.first_step) * train.global_batch,
            run_id=job.run_id,
            has_optimizer=has_optimizer,
            data_hash=job.data.data_hash,
            seed=train.seed,
        )

    def _tell(self, saved: Saved | None) -> None:
        if saved is None:
            return
        if saved.problem is not None:
            self._reports.note(f"warning: {saved.problem}")
            self._reports.write({"step": saved.step, "save_failed": saved.problem})
            return
        if saved.not_pruned is not None:
            self._reports.note(f"warning: an older checkpoint stays: {saved.not_pruned}")
        self._reports.write(
            {
                "step": saved.step,
                "save_copy_s": round(saved.copy_s, 6),
                "save_wait_s": round(self._waited_s, 6),
                "save_s": round(saved.save_s, 6),
            }
        )
