"""The files of a checkpoint as one rank writes them, and what it tells the first rank of them. No communication.

Weights, and optimizer state that every replica holds whole, are written by the first replica. State that is cut over
the replicas is written by all of them into one file: its header follows from names and shapes, so that each knows where
its elements belong. A tensor's checksum needs the whole tensor: when all have written, the replicas read back what is
in the file, each its share of the tensors.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from qvl_core import disk
from qvl_core.durable import FILE_MODE, FOLDER_MODE, explained, make_folder
from qvl_core.errors import OutputError, Problem, WeightsError
from qvl_core.parallel.mesh import Coordinate
from qvl_core.weights.manifest import rank_file_name
from qvl_core.weights.optimizer_state import optimizer_file_name
from qvl_core.weights.safetensors_header import DTYPE_BYTES, read_header
from qvl_core.weights.safetensors_writer import (
    TensorShape,
    TensorToWrite,
    checksum_of_tensor,
    outline,
    write_safetensors,
)

from qvl_train.snapshot import Held, Snapshot

if TYPE_CHECKING:
    from qvl_core.parallel.world import Json

# What is written between two looks at whether anybody still wants it.
PIECE_BYTES = 1 << 24
ONE_FILE_SYSTEM = "all machines of a run need one shared file system for it"

Wanted = Callable[[], None]


def planned_bytes(place: Coordinate, snapshot: Snapshot) -> int:
    """Count the bytes that this rank will write."""
    written = [*(snapshot.weights if place.dp == 0 else ()), *(snapshot.optimizer or ())]
    return sum(held.size for held in written)


def write_files(
    folder: Path, place: Coordinate, snapshot: Snapshot, wanted: Wanted, *, with_digests: bool
) -> dict[str, Json]:
    """Write this rank's part of a checkpoint into its temporary folder, durably, and give what to tell of it.

    That is the files, digests of all weights, and whether the state is cut over the replicas. `wanted` is called
    between pieces and raises where the checkpoint is not wanted any more. Raises OutputError or DiskError.
    """
    _join_folder(folder)
    files: list[Json] = []
    if place.dp == 0:
        files.append(_write_whole(folder / rank_file_name(place.pp, place.tp), snapshot.weights, wanted))
    if snapshot.is_cut:
        files.append(_write_part(_optimizer_file(folder, place), place, snapshot.optimizer or (), wanted))
    elif snapshot.optimizer is not None and place.dp == 0:
        files.append(_write_whole(_optimizer_file(folder, place), snapshot.optimizer, wanted))
    compared = snapshot.weights if with_digests else ()
    digests: dict[str, Json] = {held.name: zlib.crc32(held.bytes()) for held in compared}
    return {"files": files, "digests": digests, "is_cut": snapshot.is_cut}


def read_back(folder: Path, place: Coordinate, replicas: int, snapshot: Snapshot, wanted: Wanted) -> dict[str, Json]:
    """Give the checksums of this replica's share of the tensors in a file that all replicas have written."""
    if not snapshot.is_cut:
        return {"files": []}
    path = _optimizer_file(folder, place)
    try:
        entries = list(read_header(path).tensors.values())
    except WeightsError as error:
        message = f"{path.name} is not what all replicas wrote into it: {ONE_FILE_SYSTEM}\n{error}"
        raise OutputError(Problem(where=str(folder.parent), key="output.dir", message=message)) from error
    checksums: dict[str, Json] = {}
    for entry in entries[place.dp :: replicas]:
        wanted()
        checksums[entry.name] = checksum_of_tensor(entry)
    return {"files": [{"name": path.name, "checksums": checksums}]}


def _join_folder(folder: Path) -> None:
    with explained(folder):
        make_folder(folder.parent)
        with suppress(FileExistsError):
            disk.make_folder(folder, FOLDER_MODE)


def _optimizer_file(folder: Path, place: Coordinate) -> Path:
    return folder / optimizer_file_name(place.pp, place.tp)


def _write_whole(path: Path, tensors: Sequence[Held], wanted: Wanted) -> Json:
    def to_write(held: Held) -> TensorToWrite:
        return TensorToWrite(
            name=held.name, dtype=held.dtype, shape=held.shape, chunks=lambda: _pieces(held.bytes(), wanted)
        )

    written = write_safetensors(path, [to_write(held) for held in tensors])
    checksums: dict[str, Json] = dict(written.checksums)
    return {"name": path.name, "size": written.size, "checksums": checksums, "dtypes": _dtypes(tensors)}


def _write_part(path: Path, place: Coordinate, tensors: Sequence[Held], wanted: Wanted) -> Json:
    """Write this replica's elements of every tensor, and on the first one the header and the file's length."""
    plan = outline([TensorShape(name=held.name, dtype=held.dtype, shape=held.shape) for held in tensors])
    with explained(path):
        descriptor = disk.join(path, FILE_MODE)
        try:
            if place.dp == 0:
                _write_at(descriptor, plan.header, 0)
                # The last tensors may be empty or be written by others later.
                disk.resize(descriptor, plan.size)
            for held in tensors:
                position = plan.starts[held.name] + held.start * DTYPE_BYTES[held.dtype]
                for piece in _pieces(held.bytes(), wanted):
                    _write_at(descriptor, piece, position)
                    position += len(piece)
            disk.sync(descriptor)
        finally:
            disk.close(descriptor)
    return {"name": path.name, "size": plan.size, "checksums": {}, "dtypes": _dtypes(tensors)}


def _write_at(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    left = memoryview(data)
    while left:
        written = disk.write_at(descriptor, left, offset)
        left, offset = left[written:], offset + written


def _pieces(data: memoryview, wanted: Wanted) -> Iterator[memoryview]:
    for start in range(0, len(data), PIECE_BYTES):
        wanted()
        yield data[start : start + PIECE_BYTES]


def _dtypes(tensors: Sequence[Held]) -> dict[str, Json]:
    return {held.name: held.dtype for held in tensors}
