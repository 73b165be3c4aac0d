"""What a conversion writes, planned to the last byte before the first is written, and the copying of one tensor.

Rows of whole source tensors go, cut by columns, to the ends of *streams*; a stream is the bytes of one tensor of an
output file, in order, with a digest. Nothing is computed on the way but digests, unless a task has a `transform`.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from qvl_core.layout import Layout
from qvl_core.weights.row_reader import OpenFiles, RowReader, check_parts, require_checksums
from qvl_core.weights.safetensors_writer import WrittenFile
from qvl_core.weights.whole_tensors import Input, Part, WholeTensor

DigestKind = Literal["sha256", "crc32"]
Transform = Callable[[int, NDArray[np.uint8]], NDArray[np.uint8]]
Complete = Callable[[Path, Mapping[str, WrittenFile]], None]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a stream goes: a file by its name relative to the output folder, and the byte where it begins there."""

    file: str
    key: str
    offset: int


@dataclass(frozen=True, kw_only=True)
class Stream:
    """The bytes of a tensor in output files; several places hold the same bytes.

    `same_as` is the part of the source that holds exactly these bytes, where one does: its checksum has to come out.
    """

    size: int
    places: tuple[Place, ...]
    same_as: Part | None = None


@dataclass(frozen=True, kw_only=True)
class Target:
    """Columns of a segment's rows, in bytes, that go to the end of a stream of the task."""

    stream: int
    first_byte: int
    stop_byte: int


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Rows `first` to `stop` of a whole source tensor."""

    tensor: WholeTensor
    first: int
    stop: int
    targets: tuple[Target, ...]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One tensor's way into the output. `transform(first row, rows)` replaces the bytes of rows.

    With `in_order` the segments take each tensor's rows from the first to the last, so that recorded checksums
    are compared on the way; otherwise they are compared by a reading of their own before the copying.
    """

    name: str
    segments: tuple[Segment, ...]
    streams: tuple[Stream, ...]
    transform: Transform | None = None
    in_order: bool = True

    @property
    def size(self) -> int:
        """Bytes written, copies included."""
        return sum(stream.size * len(stream.places) for stream in self.streams)


@dataclass(frozen=True, kw_only=True)
class PlannedFile:
    """An output file. `fixed` are the bytes known before, at their offsets.

    `finish` gives those known only afterwards, from the digests of the file's streams by key.
    """

    name: str
    size: int
    fixed: tuple[tuple[int, bytes], ...]
    digest: DigestKind = "sha256"
    finish: Callable[[Mapping[str, str]], Iterable[tuple[int, bytes]]] | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """A conversion. `identity` changes with anything that changes the output, so that finished files may be reused.

    `complete(folder, written)` writes side files and, last, what makes the folder a checkpoint. `layout` is
    what it is cut for, None for an HF folder.
    """

    kind: str
    source_paths: tuple[Path, ...]
    inputs: tuple[Input, ...]
    files: tuple[PlannedFile, ...]
    tasks: tuple[Task, ...]
    identity: str
    complete: Complete
    layout: Layout | None = None

    @property
    def size(self) -> int:
        """Bytes of all planned files."""
        return sum(file.size for file in self.files)


class Digest(Protocol):
    """What both kinds of digest offer."""

    def update(self, data: memoryview, /) -> None: ...

    def text(self) -> str: ...


class Sha256:
    """`sha256:` and 64 hexadecimal digits."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def update(self, data: memoryview, /) -> None:
        self._digest.update(data)

    def text(self) -> str:
        return f"sha256:{self._digest.hexdigest()}"


class Crc32:
    """`crc32:` and 8 hexadecimal digits: what a zip archive records."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: memoryview, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def text(self) -> str:
        return f"crc32:{self._value:08x}"


def new_digest(kind: DigestKind) -> Digest:
    """Start a digest of this kind."""
    return Sha256() if kind == "sha256" else Crc32()


class Sink(Protocol):
    """Where bytes go. `wanted` is false for a place whose file is already complete."""

    def digest_kind(self, place: Place) -> DigestKind: ...

    def wanted(self, place: Place) -> bool: ...

    def write(self, place: Place, position: int, data: memoryview) -> None: ...


def run_task(task: Task, files: OpenFiles, sink: Sink) -> dict[Place, str]:
    """Copy one tensor and give the digest of every place. Raises WeightsError if the source is damaged, RunError."""
    outputs = [_Output(stream, sink) for stream in task.streams]
    if not task.in_order:
        for tensor in {segment.tensor.name: segment.tensor for segment in task.segments}.values():
            check_parts(tensor.parts, files)
    # Where every stream is a part as it was, the streams' own digests tell whether the source is whole.
    check = task.in_order and not all(stream.same_as for stream in task.streams)
    readers: dict[str, RowReader] = {}
    for segment in task.segments:
        tensor = segment.tensor
        if tensor.name not in readers:
            readers[tensor.name] = RowReader(tensor, files, check=check)
        _copy_segment(segment, readers[tensor.name], outputs, task.transform)
    require_checksums([(output.stream.same_as, output.text()) for output in outputs if output.stream.same_as])
    for reader in readers.values():
        reader.finish()
        check_parts(reader.tensor.copies, files)
    return {place: output.text() for output in outputs for place in output.stream.places}


def _copy_segment(segment: Segment, reader: RowReader, outputs: list[_Output], transform: Transform | None) -> None:
    step = reader.rows_per_block
    for first in range(segment.first, segment.stop, step):
        stop = min(first + step, segment.stop)
        block = reader.read(first, stop)
        if transform is not None:
            block = transform(first, block)
        for target in segment.targets:
            if target.stop_byte - target.first_byte == block.shape[1]:
                outputs[target.stream].append(block.data.cast("B"))
            else:
                part = np.ascontiguousarray(block[:, target.first_byte : target.stop_byte])
                outputs[target.stream].append(part.data.cast("B"))


class _Output:
    def __init__(self, stream: Stream, sink: Sink) -> None:
        self.stream = stream
        self._sink = sink
        self._position = 0
        self._digest = new_digest(sink.digest_kind(stream.places[0]))
        self._places = [place for place in stream.places if sink.wanted(place)]

    def append(self, data: memoryview) -> None:
        self._digest.update(data)
        for place in self._places:
            self._sink.write(place, self._position, data)
        self._position += len(data)

    def text(self) -> str:
        assert self._position == self.stream.size, f"{self._position} bytes came, {self.stream.size} were planned"
        return self._digest.text()
