"""Which files of an interrupted conversion may be kept: those whose every byte is what was planned and recorded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from qvl_core.durable import explained
from qvl_core.weights.raw_bytes import read_into
from qvl_core.weights.row_reader import BLOCK_BYTES
from qvl_core.weights.safetensors_writer import WrittenFile

from qvl_convert.transfer import Job, Place, PlannedFile, new_digest

Advance = Callable[[int], None]


def still_good(job: Job, claimed: Mapping[str, WrittenFile], advance: Advance) -> dict[str, WrittenFile]:
    """Give the files of an earlier try whose bytes are what the plan and the recorded checksums say; remove others."""
    streams: dict[str, list[tuple[Place, int]]] = {}
    for task in job.tasks:
        for stream in task.streams:
            for place in stream.places:
                streams.setdefault(place.file, []).append((place, stream.size))
    good = {}
    for file in job.files:
        written = claimed.get(file.name)
        if written is None:
            continue
        if _holds(file, written, streams.get(file.name, []), advance):
            good[file.name] = written
        else:
            with explained(written.file):
                written.file.unlink(missing_ok=True)
    return good


def _holds(file: PlannedFile, written: WrittenFile, places: list[tuple[Place, int]], advance: Advance) -> bool:
    if written.size != file.size or {place.key for place, _ in places} != set(written.checksums):
        return False
    try:
        # Not `open_regular_file`: a finished file that is gone, or is none any more, is no error of the user's.
        descriptor = os.open(written.file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if os.fstat(descriptor).st_size != file.size:
            return False
        expected = [*file.fixed, *(file.finish(written.checksums) if file.finish else ())]
        if any(os.pread(descriptor, len(data), offset) != data for offset, data in expected):
            return False
        for place, size in places:
            found = _checksum(descriptor, place, size, file)
            if found != written.checksums[place.key]:
                return False
            advance(size)
    finally:
        os.close(descriptor)
    return True


def _checksum(descriptor: int, place: Place, size: int, file: PlannedFile) -> str:
    digest = new_digest(file.digest)
    buffer = memoryview(bytearray(min(BLOCK_BYTES, size)))
    for start in range(0, size, BLOCK_BYTES):
        piece = buffer[: min(BLOCK_BYTES, size - start)]
        read_into(descriptor, place.offset + start, piece, Path(file.name))
        digest.update(piece)
    return digest.text()
