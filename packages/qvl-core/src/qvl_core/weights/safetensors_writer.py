"""Write a safetensors file tensor by tensor, in bounded memory, with a checksum of each. Needs no numpy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qvl_core.durable import new_file
from qvl_core.input_file import open_regular_file
from qvl_core.weights.raw_bytes import PIECE_BYTES, pieces
from qvl_core.weights.safetensors_header import DTYPE_BYTES, TensorEntry

# Enough for any element, and what the usual library aligns to.
_ALIGNMENT = 8


@dataclass(frozen=True, kw_only=True)
class TensorToWrite:
    """One tensor on its way to a file. `chunks` gives its bytes in order; it is called once, when they are needed."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Callable[[], Iterable[bytes | memoryview]]

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        count = DTYPE_BYTES[self.dtype]
        for extent in self.shape:
            count *= extent
        return count


@dataclass(frozen=True, kw_only=True)
class WrittenFile:
    """A file that is on the disk: its size in bytes, and each tensor's checksum, `sha256:...`."""

    file: Path
    size: int
    checksums: Mapping[str, str]


def tensor_from_entry(entry: TensorEntry, name: str | None = None) -> TensorToWrite:
    """Give a tensor that is copied, byte for byte, from where it lies."""
    return TensorToWrite(name=name or entry.name, dtype=entry.dtype, shape=entry.shape, chunks=lambda: pieces(entry))


def write_safetensors(
    path: Path, tensors: Sequence[TensorToWrite], *, metadata: Mapping[str, str] | None = None
) -> WrittenFile:
    """Write a new file, durably (the folder's entry is the caller's to sync). Raises OutputError or RunError.

    Tensors of wide elements come first, so that each starts at a multiple of its element's size.
    """
    # HF's readers ask for the key "format"; "pt" is what they expect in a checkpoint.
    ordered = sorted(tensors, key=lambda tensor: -DTYPE_BYTES[tensor.dtype])
    header = _header(ordered, {"format": "pt"} if metadata is None else metadata)
    checksums: dict[str, str] = {}
    size = len(header)
    with new_file(path) as file:
        file.write(header)
        for tensor in ordered:
            digest, written = hashlib.sha256(), 0
            for chunk in tensor.chunks():
                digest.update(chunk)
                written += file.write(chunk)
            assert written == tensor.size, f"{tensor.name}: {written} bytes came, {tensor.size} were announced"
            checksums[tensor.name] = f"sha256:{digest.hexdigest()}"
            size += written
    return WrittenFile(file=path, size=size, checksums=checksums)


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


def _header(tensors: Sequence[TensorToWrite], metadata: Mapping[str, str]) -> bytes:
    fields: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for tensor in tensors:
        assert tensor.name not in fields, f"{tensor.name} comes twice"
        stop = start + tensor.size
        fields[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
