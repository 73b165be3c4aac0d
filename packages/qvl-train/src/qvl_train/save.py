"""Save training checkpoints from all ranks while they train: complete or not there.

A save has three parts: every rank writes its files; replicas that share a file read it back for its checksums; the
first rank completes the folder and gives it its name. Each part runs in the background of its rank and talks to nobody.
What it came to travels with the exchange that every training step makes anyway (`message`, `hear`), so that all ranks
begin the next part, or learn of an error, after the same step. The folder has to be on a file system that all share.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, cast

from qvl_core.durable import TEMPORARY_MARK, remove_tree
from qvl_core.errors import EXIT_FAILED, DiskError, QvlError, RunError
from qvl_core.lora_table import Lora
from qvl_core.specs.model_spec import ModelSpec

from qvl_train.agreement import PRECEDENCE_S, OtherRankError
from qvl_train.background import Work
from qvl_train.checkpoint import TrainingState, checkpoint_path, prune
from qvl_train.commit import Origin, commit
from qvl_train.rank_files import planned_bytes, read_back, write_files
from qvl_train.snapshot import Contents, HostBuffers, Snapshot, present_values

if TYPE_CHECKING:
    from qvl_core.parallel.world import Json, World

__all__ = ["Contents", "Saved", "Saver", "save_checkpoint"]

Part = Literal["write", "read back", "commit"]


@dataclass(frozen=True, kw_only=True)
class Saved:
    """How a save ended, the same on all ranks: `problem` is None where the checkpoint is there.

    `not_pruned` says why an older checkpoint could not be removed.

    Seconds from the beginning to the news of the end, and for which the slowest rank's step stood still to copy.
    """

    step: int
    path: Path
    problem: str | None
    not_pruned: str | None
    copy_s: float
    save_s: float


@dataclass(kw_only=True)
class _Pending:
    """The save that is under way: where this rank is, and what all ranks have told of the present part."""

    state: TrainingState
    folder: Path
    snapshot: Snapshot
    started: float
    copy_s: float
    part: Part = "write"
    work: Work
    has_told: bool = False
    told: dict[int, dict[str, Json]] = field(default_factory=dict)
    written: list[dict[str, Json]] = field(default_factory=list)
    read_back: list[dict[str, Json]] = field(default_factory=list)


class Saver:
    """Saves one checkpoint at a time. All ranks make the same calls in the same order.

    Use it as a context manager: leaving it with an error stops what is being written; what is complete by then is
    named. `keep` newest checkpoints stay (0: all). Without `in_background` a part is done before its call returns,
    from the tensors themselves.
    """

    def __init__(
        self, world: World, run: Path, origin: Origin, *, keep: int, in_background: bool, go_on: bool = False
    ) -> None:
        self._world = world
        self._run = run
        self._origin = origin
        self._keep = keep
        self._in_background = in_background
        self._go_on = go_on
        self._buffers = HostBuffers()
        self._has_copies = world.layout.world_size > 1
        self._pending: _Pending | None = None
        self._preparation: Work | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a save is under way."""
        return self._pending is not None

    def prepare(self, contents: Contents) -> None:
        """Take the memory for copies like these in the background, so that the first save is as quick as the others."""
        if self._in_background:
            self._preparation = self._begin(lambda wanted: self._prepared(contents))

    def start(self, state: TrainingState, contents: Contents) -> None:
        """Copy what this rank holds and begin to write it. There must be no other save under way."""
        assert self._pending is None, "one save at a time"
        if self._preparation is not None:
            self._preparation.wait()
            self._preparation = None
        started = time.perf_counter()
        folder = self._run / f".{checkpoint_path(self._run, state.step).name}{TEMPORARY_MARK}{state.run_id}"
        try:
            snapshot, problem = self._snapshot(contents), None
        except Exception as error:  # such as no memory: the other ranks hear of it as they hear of a full disk
            snapshot, problem = Snapshot(weights=(), optimizer=None), error
        copy_s = time.perf_counter() - started
        if problem is None:
            work = self._begin(lambda wanted: self._write(folder, snapshot, wanted))
        else:
            work = Work(_raising(problem), in_line=True)
        self._pending = _Pending(
            state=state, folder=folder, snapshot=snapshot, started=started, copy_s=copy_s, work=work
        )

    def message(self) -> Json:
        """Give what the other ranks should know by now; every message has to reach all ranks, and `hear` of each."""
        pending = self._pending
        if pending is None or pending.has_told or not pending.work.has_ended:
            return None
        pending.has_told = True
        told: dict[str, Json] = {
            "bytes": planned_bytes(self._world.place, pending.snapshot),
            "copy_s": pending.copy_s,
            **pending.work.result,
        }
        return told if pending.work.error is None else {**told, **_failure(pending.work.error)}

    def hear(self, messages: Sequence[Json]) -> Saved | None:
        """Take all ranks' messages, in rank order, and go on; give how the save ended, when it has.

        Raises, on all ranks, what went wrong on any: DiskError where a disk is full or fails, unless the saver is to
        go on then; others as they are on the rank concerned, OtherRankError elsewhere.
        """
        pending = self._pending
        if pending is None:
            return None
        pending.told.update(
            (rank, cast("dict[str, Json]", told)) for rank, told in enumerate(messages) if told is not None
        )
        if len(pending.told) < self._world.layout.world_size:
            return None
        told = [pending.told[rank] for rank in range(self._world.layout.world_size)]
        if any("error" in one for one in told):
            return self._failed(pending, told)
        if pending.part == "commit":
            return self._ended(pending, None)
        self._next_part(pending, told)
        return None

    def finish(self) -> Saved | None:
        """Wait until the save that is under way has ended, with exchanges of its own; give how it did.

        Raises as `hear` does.
        """
        ended = None
        while self._pending is not None:
            self._pending.work.wait()
            ended = self.hear(self._world.exchange(self.message()))
        return ended

    def settle(self, limit_s: float) -> Saved | None:
        """Go on for about so long with exchanges of its own, as long as no rank takes longer; give how the save ended.

        None where it has not ended by then: it goes on beside the steps. Raises as `hear` does.
        """
        deadline = time.monotonic() + limit_s
        while self._pending is not None:
            self._pending.work.wait(max(0.0, deadline - time.monotonic()))
            told = self._world.exchange([self._pending.work.has_ended, self.message()])
            messages = [cast("list[Json]", one) for one in told]
            ended = self.hear([message for _, message in messages])
            if ended is not None or not all(has_ended for has_ended, _ in messages):
                return ended
        return None

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or self._pending is None:
            return
        if self._world.layout.world_size == 1 and isinstance(error, Exception):
            # Nobody has to be asked: what was to be saved is as good as it was.
            with suppress(Exception):
                self.finish()
        elif self._pending.part == "commit":
            self._pending.work.wait()
        else:
            self._pending.work.abandon()

    def _snapshot(self, contents: Contents) -> Snapshot:
        is_first = self._world.place.dp == 0
        if self._in_background:
            return self._buffers.snapshot(contents, is_first_replica=is_first)
        return present_values(contents, is_first_replica=is_first)

    def _write(self, folder: Path, snapshot: Snapshot, wanted: Callable[[], None]) -> dict[str, Json]:
        return write_files(folder, self._world.place, snapshot, wanted, with_digests=self._has_copies)

    def _prepared(self, contents: Contents) -> dict[str, Json]:
        self._buffers.prepare(contents, is_first_replica=self._world.place.dp == 0)
        return {}

    def _begin(self, work: Callable[[Callable[[], None]], dict[str, Json]]) -> Work:
        return Work(work, in_line=not self._in_background)

    def _next_part(self, pending: _Pending, told: list[dict[str, Json]]) -> None:
        place, layout = self._world.place, self._world.layout
        pending.told, pending.has_told = {}, False
        if pending.part == "read back":
            pending.read_back = told
        else:
            pending.written = told
        if pending.part == "write" and any(one["is_cut"] for one in told):
            pending.part = "read back"
            pending.work = self._begin(
                lambda wanted: read_back(pending.folder, place, layout.dp, pending.snapshot, wanted)
            )
            return
        pending.part = "commit"
        pending.work = self._begin(lambda wanted: self._commit(pending) if self._world.rank == 0 else {})

    def _commit(self, pending: _Pending) -> dict[str, Json]:
        commit(
            pending.folder,
            checkpoint_path(self._run, pending.state.step),
            pending.state,
            self._world.layout,
            self._origin,
            written=pending.written,
            read_back=pending.read_back,
        )
        try:
            prune(self._run, self._keep, newest=pending.state.step)
        except QvlError as error:
            # The new one is there: an old one that stays is no reason to stop.
            return {"not_pruned": str(error)}
        return {}

    def _ended(self, pending: _Pending, problem: str | None) -> Saved:
        self._pending = None
        return Saved(
            step=pending.state.step,
            path=checkpoint_path(self._run, pending.state.step),
            problem=problem,
            not_pruned=next((str(one["not_pruned"]) for one in pending.told.values() if "not_pruned" in one), None),
            copy_s=max(float(str(one["copy_s"])) for one in pending.told.values()),
            save_s=time.perf_counter() - pending.started,
        )

    def _failed(self, pending: _Pending, told: list[dict[str, Json]]) -> Saved:
        """Remove what was written, and raise or tell what went wrong on the first rank that something did on."""
        if self._world.rank == 0:
            with suppress(OSError):
                remove_tree(pending.folder)
        rank, first = next((rank, one) for rank, one in enumerate(told) if "error" in one)
        text, own = str(first["error"]), pending.work.error
        if all(one.get("is_disk", True) for one in told):
            text = _no_room(text, pending.state.step, sum(int(str(one["bytes"])) for one in told))
            own = DiskError(text) if own is not None else None
            if self._go_on:
                return self._ended(pending, text)
        self._pending = None
        if own is not None:
            raise own
        # The launcher shows the first error of all: that has to be the one of the rank that it happened on.
        time.sleep(PRECEDENCE_S)
        text = f"{text}\n(on rank {rank})"
        raise RunError(text) if first["is_run"] else OtherRankError(text, int(str(first["exit_code"])))


def save_checkpoint(
    world: World,
    run: Path,
    state: TrainingState,
    contents: Contents,
    *,
    spec: ModelSpec,
    side_files: Path,
    source_revision: str,
    in_background: bool = False,
    lora: Lora | None = None,
) -> Path:
    """Write `step_NNNNNN`, all of it or nothing, wait for it, and give its path; all ranks call it.

    Raises as `Saver.hear` does, the same on every rank.
    """
    origin = Origin(spec=spec, side_files=side_files, source_revision=source_revision, lora=lora)
    with Saver(world, run, origin, keep=0, in_background=in_background) as saver:
        saver.start(state, contents)
        saver.finish()
    return checkpoint_path(run, state.step)


def _raising(error: Exception) -> Callable[[Callable[[], None]], dict[str, Json]]:
    def work(wanted: Callable[[], None]) -> dict[str, Json]:
        raise error

    return work


def _failure(error: Exception) -> dict[str, Json]:
    is_ours = isinstance(error, QvlError)
    return {
        "error": str(error) if is_ours else f"{type(error).__name__}: {error}",
        "exit_code": error.exit_code if isinstance(error, QvlError) else EXIT_FAILED,
        "is_disk": isinstance(error, DiskError),
        "is_run": isinstance(error, RunError),
    }


def _no_room(text: str, step: int, needed: int) -> str:
    return (
        f"the checkpoint of step {step} could not be saved: {text}\n"
        f"it has {needed:,} bytes; what was written of it is removed, earlier checkpoints are as they were\n"
        "fix: make room there, or lower train.save.keep; the same command goes on from the last checkpoint. "
        'train.save.on_error = "continue" trains on and tries again at the next save'
    )
