"""What a job would read and write, and how long it would take at the speed that the disks show now."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvl_core.durable import explained
from qvl_core.layout import Layout
from qvl_core.weights.manifest import layout_to_json

from qvl_convert.progress import counted, duration, gigabytes
from qvl_convert.transfer import Job
from qvl_convert.wanted_layout import layout_text

SAMPLE_BYTES = 128 * 1024**2
_BLOCK = 4 * 1024**2
_SHOWN_FILES = 40


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Bytes and files of a job; speeds in bytes a second, None where there was nothing to measure with."""

    kind: str
    out: Path
    layout: Layout | None
    tensors: int
    read_files: int
    read_bytes: int
    files: tuple[tuple[str, int, int], ...]
    write_bytes: int
    free_bytes: int
    read_speed: float | None
    write_speed: float | None
    seconds: float


def forecast(job: Job, out: Path) -> Forecast:
    """Measure both disks with a sample and give the forecast. Nothing stays behind; the output is not begun."""
    parent = next(folder for folder in (out.parent, *out.absolute().parents) if folder.is_dir())
    read_bytes = sum(segment.tensor.row_bytes * (segment.stop - segment.first) for segment in _segments(job))
    disk = os.statvfs(parent)
    free = disk.f_bavail * disk.f_frsize
    read_speed, write_speed = _read_speed(job), _write_speed(parent, free)
    reading = read_bytes / read_speed if read_speed else 0.0
    writing = job.size / write_speed if write_speed else 0.0
    one_disk = job.source_paths[0].stat().st_dev == parent.stat().st_dev
    tensors: dict[str, int] = {}
    for task in job.tasks:
        for stream in task.streams:
            for place in stream.places:
                tensors[place.file] = tensors.get(place.file, 0) + 1
    return Forecast(
        kind=job.kind,
        out=out,
        layout=job.layout,
        tensors=len(job.tasks),
        read_files=len({piece.file for segment in _segments(job) for piece in segment.tensor.pieces}),
        read_bytes=read_bytes,
        files=tuple((file.name, file.size, tensors.get(file.name, 0)) for file in job.files),
        write_bytes=job.size,
        free_bytes=free,
        read_speed=read_speed,
        write_speed=write_speed,
        # One disk does one after the other, two do both at once.
        seconds=reading + writing if one_disk else max(reading, writing),
    )


def forecast_text(found: Forecast) -> str:
    """Give the forecast for people."""
    width = max(len(name) for name, _, _ in found.files)
    lines = [f"would write {found.out} ({found.kind}); nothing is written now"]
    lines += [f"layout: {layout_text(found.layout)}", ""] if found.layout else [""]
    for name, size, tensors in found.files[:_SHOWN_FILES]:
        lines.append(f"  {name:<{width}}  {gigabytes(size):>12}  {tensors:>5,} tensors")
    if len(found.files) > _SHOWN_FILES:
        lines.append(f"  ... and {len(found.files) - _SHOWN_FILES} more")
    writes = (
        f"{gigabytes(found.write_bytes)} in {counted(len(found.files), 'file')}, {counted(found.tensors, 'tensor')}"
    )
    lines += [
        "",
        f"reads   {gigabytes(found.read_bytes)} from {counted(found.read_files, 'file')}, {_speed(found.read_speed)}",
        f"writes  {writes}, {_speed(found.write_speed)}; {gigabytes(found.free_bytes)} are free",
        f"time    about {duration(found.seconds)} at these speeds",
    ]
    if found.write_bytes > found.free_bytes:
        lines.append(f"the disk is too full: {gigabytes(found.write_bytes - found.free_bytes)} are missing")
    return "\n".join(lines)


def forecast_json(found: Forecast) -> Mapping[str, Any]:
    """Give the forecast for machines: bytes and seconds."""
    return {
        "kind": found.kind,
        "out": str(found.out),
        "layout": layout_to_json(found.layout) if found.layout is not None else None,
        "tensors": found.tensors,
        "reads": {"files": found.read_files, "bytes": found.read_bytes, "bytes_per_s": found.read_speed},
        "writes": {
            "files": [{"name": name, "bytes": size, "tensors": count} for name, size, count in found.files],
            "bytes": found.write_bytes,
            "bytes_per_s": found.write_speed,
            "free_bytes": found.free_bytes,
        },
        "seconds": found.seconds,
    }


def _segments(job: Job) -> list[Any]:
    return [segment for task in job.tasks for segment in task.segments]


def _speed(bytes_per_s: float | None) -> str:
    return f"measured {gigabytes(bytes_per_s)}/s" if bytes_per_s else "speed not measured"


def _write_speed(folder: Path, free: int) -> float | None:
    """Give the speed of writing a sample, None where the disk has no room for one."""
    block = os.urandom(_BLOCK)
    blocks = min(SAMPLE_BYTES, free // 2) // _BLOCK
    with explained(folder):
        descriptor = _nameless_file(folder)
        try:
            start = time.perf_counter()
            done = sum(os.write(descriptor, block) for _ in range(blocks))
            os.fsync(descriptor)
            return done / (time.perf_counter() - start) if done else None
        finally:
            os.close(descriptor)


def _nameless_file(folder: Path) -> int:
    """Open a file that is gone with the process, whatever happens."""
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        # NFS, for one, has no files without a name: there it gets one, and loses it at once.
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
    descriptor, name = tempfile.mkstemp(prefix=".qvl-plan-", dir=folder)
    Path(name).unlink()
    return descriptor


def _read_speed(job: Job) -> float | None:
    largest = max(job.inputs, key=lambda one: one.stamp[1], default=None)
    if largest is None:
        return None
    descriptor = os.open(largest.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        count = min(SAMPLE_BYTES, os.fstat(descriptor).st_size)
        # Of this sample only, what the kernel holds in memory is dropped: the disk is to be measured.
        os.posix_fadvise(descriptor, 0, count, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        done = sum(len(os.pread(descriptor, _BLOCK, at)) for at in range(0, count, _BLOCK))
        return done / max(time.perf_counter() - start, 1e-9)
    finally:
        os.close(descriptor)
