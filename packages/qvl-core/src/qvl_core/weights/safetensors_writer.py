"""Write a safetensors file tensor by tensor, in bounded memory, with a checksum of each. Needs no numpy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from qvl_core.durable import new_file
from qvl_core.input_file import open_regular_file
from qvl_core.weights.raw_bytes import PIECE_BYTES, pieces
from qvl_core.weights.safetensors_header import DTYPE_BYTES, TensorEntry

# Enough for any element, and what the usual library aligns to.
_ALIGNMENT = 8


@dataclass(frozen=True, kw_only=True)
class TensorToWrite:
    """One tensor on its way to a file, which is planned from its shape.

    `chunks` gives its bytes in order. It is called once, when the tensors before it are written and forgotten: what it
    reads or makes only then is alone in memory.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Callable[[], Iterable[bytes | memoryview]]

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return _byte_size(self.dtype, self.shape)


@dataclass(frozen=True, kw_only=True)
class TensorShape:
    """One tensor of a file that is being planned; `size` counts bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return _byte_size(self.dtype, self.shape)


@dataclass(frozen=True, kw_only=True)
class FileOutline:
    """A file before its tensors are there: the bytes it begins with, and where each tensor begins."""

    header: bytes
    starts: Mapping[str, int]
    size: int


@dataclass(frozen=True, kw_only=True)
class WrittenFile:
    """A file that is on the disk: its size in bytes, and each tensor's checksum, `sha256:...`."""

    file: Path
    size: int
    checksums: Mapping[str, str]


def tensor_from_entry(entry: TensorEntry, name: str | None = None) -> TensorToWrite:
    """Give a tensor that is copied, byte for byte, from where it lies."""
    return TensorToWrite(name=name or entry.name, dtype=entry.dtype, shape=entry.shape, chunks=lambda: pieces(entry))


def outline(
    tensors: Iterable[TensorToWrite | TensorShape], *, metadata: Mapping[str, str] | None = None
) -> FileOutline:
    """Plan a file. Tensors of wide elements come first, so that each starts at a multiple of its element's size."""
    # HF's readers ask for the key "format"; "pt" is what they expect in a checkpoint.
    fields: dict[str, object] = {"__metadata__": {"format": "pt"} if metadata is None else dict(metadata)}
    starts: dict[str, int] = {}
    position = 0
    ordered: list[TensorToWrite | TensorShape] = sorted(tensors, key=lambda tensor: -DTYPE_BYTES[tensor.dtype])
    for tensor in ordered:
        assert tensor.name not in fields, f"{tensor.name} comes twice"
        offsets = [position, position + tensor.size]
        fields[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        starts[tensor.name] = position
        position += tensor.size
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    return FileOutline(
        header=header,
        starts={name: len(header) + start for name, start in starts.items()},
        size=len(header) + position,
    )


def write_safetensors(
    path: Path, tensors: Sequence[TensorToWrite], *, metadata: Mapping[str, str] | None = None
) -> WrittenFile:
    """Write a new file, durably (the folder's entry is the caller's to sync). Raises OutputError or RunError."""
    plan = outline(tensors, metadata=metadata)
    by_name = {tensor.name: tensor for tensor in tensors}
    checksums: dict[str, str] = {}
    with new_file(path) as file:
        file.write(plan.header)
        for name in plan.starts:
            checksums[name] = _write_tensor(file, by_name[name])
    return WrittenFile(file=path, size=plan.size, checksums=checksums)


def checksum_of_tensor(entry: TensorEntry) -> str:
    """Give the checksum of a tensor's bytes as they are on the disk now."""
    digest = hashlib.sha256()
    for piece in pieces(entry):
        digest.update(piece)
    return f"sha256:{digest.hexdigest()}"


def checksum_of_file(path: Path) -> str:
    """Give the checksum of a whole file."""
    digest = hashlib.sha256()
    with open_regular_file(path) as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
    return f"sha256:{digest.hexdigest()}"


def _write_tensor(file: BinaryIO, tensor: TensorToWrite) -> str:
    """Write a tensor and give its checksum. A function, so that no chunk outlives its tensor: it may hold all of it."""
    digest, written = hashlib.sha256(), 0
    for chunk in tensor.chunks():
        digest.update(chunk)
        written += file.write(chunk)
    assert written == tensor.size, f"{tensor.name}: {written} bytes came, {tensor.size} were announced"
    return f"sha256:{digest.hexdigest()}"


def _byte_size(dtype: str, shape: tuple[int, ...]) -> int:
    count = DTYPE_BYTES[dtype]
    for extent in shape:
        count *= extent
    return count
