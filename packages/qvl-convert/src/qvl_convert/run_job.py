"""Carry out a job: copy with a few threads into the working folder, reuse what an earlier try finished, commit."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from qvl_core.durable import explained, make_folder, sync_folder
from qvl_core.errors import InputChangedError, OutputError, QvlError, RunError, WeightsError
from qvl_core.input_file import printable
from qvl_core.layout import Layout
from qvl_core.weights.row_reader import OpenFiles
from qvl_core.weights.safetensors_writer import WrittenFile

from qvl_convert.finished_files import still_good
from qvl_convert.progress import gigabytes
from qvl_convert.target import require_apart, require_target
from qvl_convert.transfer import DigestKind, Job, Place, Stream, Task, run_task
from qvl_convert.working_folder import WorkingFolder, working_path

Advance = Callable[[int], None]
UNFINISHED = ".unfinished"
# Never writable for everyone; the umask takes away more.
FILE_MODE = 0o664
# More than the cores: some wait for the disk while others compute checksums.
EXTRA_THREADS = 2
MOST_THREADS = 6
# Measured: the kernel copies pieces of this size into its cache at half the cost of pieces of 1 MiB.
WRITE_BYTES = 256 * 1024
# Tensors from this size on are begun first: one that comes last would keep a single thread busy at the end.
LARGE_BYTES = 256 * 1024**2


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a job did. `reused_files` were finished by an earlier try and verified."""

    kind: str
    out: Path
    layout: Layout | None
    files: int
    tensors: int
    bytes_written: int
    reused_files: int
    reused_bytes: int
    seconds: float

    @property
    def bytes_per_s(self) -> float:
        """Bytes of finished output a second, reused ones not counted."""
        return (self.bytes_written - self.reused_bytes) / max(self.seconds, 1e-9)


def run_job(job: Job, out: Path, *, overwrite: bool, advance: Advance) -> Summary:
    """Write the job's output to `out`, which appears complete or not at all. `advance` is told the bytes done.

    After a kill, a full disk or an interruption the same call goes on from the finished files. Raises OutputError if
    `out` is taken or is the source, WeightsError if the source is damaged, RunError if it changes or the disk is full.
    """
    start = time.monotonic()
    require_apart(out, job)
    if os.path.lexists(working_path(out)):
        # What a process left that was killed at its last renames is settled before anything is said about `out`.
        with WorkingFolder(out):
            pass
    require_target(out, job, overwrite=overwrite)
    with WorkingFolder(out) as working:
        # Another process may have finished here while this one waited for nothing but the lock.
        require_target(out, job, overwrite=overwrite)
        try:
            reused, written = _fill(job, working, advance)
        except (QvlError, KeyboardInterrupt) as error:
            _leave(working, job, error)
            raise
        # Hours may have passed: what lies there now must not be lost either.
        require_target(out, job, overwrite=overwrite)
        working.commit(replace=overwrite)
    return Summary(
        kind=job.kind,
        out=out,
        layout=job.layout,
        files=len(job.files),
        tensors=len(job.tasks),
        bytes_written=sum(file.size for file in written.values()),
        reused_files=len(reused),
        reused_bytes=sum(file.size for file in reused.values()),
        seconds=time.monotonic() - start,
    )


def _fill(job: Job, working: WorkingFolder, advance: Advance) -> tuple[dict[str, WrittenFile], dict[str, WrittenFile]]:
    reused = still_good(job, working.begin(job.identity), advance)
    _require_space(job, reused, working.out)
    with OpenFiles(job.inputs) as files:
        copy = _Copy(job, working, reused, advance)
        try:
            copy.run(files)
            # Only now: a file that was written to while the last tensor was read is found as well.
            files.require_unchanged()
            job.complete(working.out, copy.written)
        except WeightsError:
            # A file that is being written to looks like a damaged one.
            files.require_unchanged()
            raise
        finally:
            copy.close()
        # Side files were copied last.
        files.require_unchanged()
    return reused, copy.written


def _leave(working: WorkingFolder, job: Job, error: BaseException) -> None:
    """Keep what is finished after an interruption; with nothing finished, or a wrong source, keep nothing."""
    wrong = isinstance(error, (InputChangedError, WeightsError))
    try:
        if wrong or not working.keep_recorded(job.identity):
            working.discard()
    except (OutputError, RunError):
        # A disk that fails may fail here as well; the first error is the one to tell, and the next try clears up.
        return


def _require_space(job: Job, reused: Mapping[str, WrittenFile], folder: Path) -> None:
    needed = sum(file.size for file in job.files if file.name not in reused)
    with explained(folder):
        free = shutil.disk_usage(folder).free
    if needed > free:
        raise RunError(
            f"{printable(str(folder.parent.parent))}: the disk is too full: {needed:,} bytes ({gigabytes(needed)}) are "
            f"needed, {free:,} ({gigabytes(free)}) are free\n  fix: free some space, or give an --out on another disk"
        )


class _Copy:
    """The copying of one job: open output files, what is still missing of each, and the first failure of a thread."""

    def __init__(self, job: Job, working: WorkingFolder, reused: Mapping[str, WrittenFile], advance: Advance) -> None:
        self.written: dict[str, WrittenFile] = dict(reused)
        self._job = job
        self._working = working
        self._advance = advance
        self._kinds = {file.name: file.digest for file in job.files}
        self._files = {file.name: file for file in job.files if file.name not in reused}
        self._descriptors: dict[str, int] = {}
        self._checksums: dict[str, dict[str, str]] = {name: {} for name in self._files}
        self._missing = dict.fromkeys(self._files, 0)
        for stream in self._streams():
            for place in stream.places:
                if place.file in self._files:
                    self._missing[place.file] += 1
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def run(self, files: OpenFiles) -> None:
        """Copy every tensor of an unfinished file. Raises the first error of any thread."""
        for name in [name for name, count in self._missing.items() if not count]:
            self._finish(name)
        tasks = [task for task in self._job.tasks if any(self.wanted(place) for place in _places(task.streams))]
        tasks.sort(key=lambda task: task.size < LARGE_BYTES)
        threads = min(MOST_THREADS, (os.cpu_count() or 1) + EXTRA_THREADS, max(1, len(tasks)))
        with ThreadPoolExecutor(threads, thread_name_prefix="copy") as pool:
            futures = [pool.submit(self._run_task, task, files) for task in tasks]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                # After an error or Ctrl-C the other threads stop at their next block.
                self._stop.set()
                for future in futures:
                    future.cancel()
        _raise_first(done)

    def close(self) -> None:
        """Close what an error left open."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def digest_kind(self, place: Place) -> DigestKind:
        return self._kinds[place.file]

    def wanted(self, place: Place) -> bool:
        return place.file in self._files

    def write(self, place: Place, position: int, data: memoryview) -> None:
        """Write a stream's bytes at their place. Raises _StoppedError when another thread has failed."""
        if self._stop.is_set():
            raise _StoppedError
        with explained(self._path(place.file)):
            descriptor = self._descriptor(place.file)
            _write_fully(descriptor, data, place.offset + position)
        self._advance(len(data))

    def _run_task(self, task: Task, files: OpenFiles) -> None:
        if self._stop.is_set():
            raise _StoppedError
        complete = []
        for place, checksum in run_task(task, files, self).items():
            if not self.wanted(place):
                continue
            with self._lock:
                self._checksums[place.file][place.key] = checksum
                self._missing[place.file] -= 1
                if not self._missing[place.file]:
                    complete.append(place.file)
        for name in complete:
            self._finish(name)

    def _finish(self, name: str) -> None:
        """Put a complete file on the disk, then give it its name, then write that down."""
        file, path, checksums = self._files[name], self._path(name), self._checksums[name]
        with explained(path):
            descriptor = self._descriptor(name)
            for offset, data in (*file.fixed, *(file.finish(checksums) if file.finish else ())):
                _write_fully(descriptor, memoryview(data), offset)
            os.fsync(descriptor)
            with self._lock:
                del self._descriptors[name]
            os.close(descriptor)
            path.rename(self._working.out / name)
            sync_folder(path.parent)
        written = WrittenFile(file=self._working.out / name, size=file.size, checksums=checksums)
        with self._lock:
            self.written[name] = written
            self._working.record(name, written)

    def _descriptor(self, name: str) -> int:
        with self._lock:
            if name not in self._descriptors:
                path = self._path(name)
                make_folder(path.parent)
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                self._descriptors[name] = os.open(path, flags, FILE_MODE)
            return self._descriptors[name]

    def _path(self, name: str) -> Path:
        return self._working.out / f"{name}{UNFINISHED}"

    def _streams(self) -> Iterator[Stream]:
        for task in self._job.tasks:
            yield from task.streams


def _write_fully(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of it: on a disk that is almost full the first call writes a part, only the next one fails."""
    while data:
        count = os.pwrite(descriptor, data[:WRITE_BYTES], offset)
        offset += count
        data = data[count:]


class _StoppedError(Exception):
    """Another thread has failed; its error is the one to tell."""


def _places(streams: Iterable[Stream]) -> Iterator[Place]:
    for stream in streams:
        yield from stream.places


def _raise_first(done: Iterable[Future[None]]) -> None:
    errors = [error for future in done if not future.cancelled() and (error := future.exception()) is not None]
    for error in errors:
        if not isinstance(error, _StoppedError):
            raise error
    assert not errors, "a thread stopped although none had failed"
