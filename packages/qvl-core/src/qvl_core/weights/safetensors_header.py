"""Read and check the header of a safetensors file; the tensors themselves stay on disk.

Format: 8 bytes little-endian header length, a JSON object name -> {dtype, shape, data_offsets}, then the bytes of all
tensors without gaps (safetensors README, section "Format"). The usual library accepts more than that text allows:
duplicate names, leading space, unknown fields, any name. This reader does not, and reads at most the header.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from qvl_core.errors import Problem, WeightsError
from qvl_core.input_file import open_regular_file, printable
from qvl_core.json_file import JsonError, parse_json
from qvl_core.weights.file_kind import recognise

# Bytes of one element.
DTYPE_BYTES: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip

# The format allows 100,000,000. Our largest real header has 0.2 MB; 8 MiB bound what a hostile one can make us hold.
MAX_HEADER_BYTES = 8 * 1024**2
MAX_NAME_LENGTH = 512
_NAME = re.compile(r"[A-Za-z0-9_.\-]+")
_LARGEST = 2**63 - 1
_SHOWN = 10
_AGAIN = "download or copy the file again, and compare its size with the source's"


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """Where one tensor lies: bytes `start` to `stop` of `file`, counted from the beginning of the file."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class SafetensorsHeader:
    """What a file says about itself. `tensors` is in the order of the data; `stamp` tells whether the file changed."""

    file: Path
    size: int
    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]
    stamp: tuple[int, int, int]


def read_header(path: Path) -> SafetensorsHeader:
    """Give the checked header of a safetensors file. Raises WeightsError, up to 10 problems at once."""
    with open_regular_file(path, fix=_AGAIN) as file:
        status = os.fstat(file.fileno())
        data, first_byte = _header_bytes(path, file, status.st_size)
    try:
        header = parse_json(data)
    except JsonError as error:
        raise _wrong(path, f"the header cannot be read: {error}") from None
    metadata = header.pop("__metadata__", {})
    problems = [*_metadata_problems(path, metadata)]
    tensors: dict[str, TensorEntry] = {}
    for name, fields in header.items():
        found = _entry(path, name, fields, first_byte)
        if isinstance(found, Problem):
            problems.append(found)
        else:
            tensors[name] = found
        if len(problems) >= _SHOWN:
            break
    # Offsets are judged only when every entry could be read: a bad entry would look like a hole as well.
    if not problems:
        ordered = sorted(tensors.values(), key=lambda entry: (entry.start, entry.stop))
        problems += _coverage_problems(path, ordered, first_byte, status.st_size)
    if problems:
        raise WeightsError(problems)
    return SafetensorsHeader(
        file=path,
        size=status.st_size,
        tensors={entry.name: entry for entry in ordered},
        metadata=metadata,
        stamp=file_stamp(status),
    )


def file_stamp(status: os.stat_result) -> tuple[int, int, int]:
    """Give what changes when a file is replaced or written: inode, size, time in nanoseconds."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def _header_bytes(path: Path, file: BinaryIO, size: int) -> tuple[bytes, int]:
    """Give the header's text and the position of the first data byte."""
    if size == 0:
        raise _wrong(path, "is empty: 0 bytes")
    start = file.read(512)
    length = int.from_bytes(start[:8], "little")
    if size < 8 or not 0 < length <= min(MAX_HEADER_BYTES, size - 8) or start[8:9] != b"{":
        if known := recognise(start):
            raise _wrong(path, known.message, known.fix)
        raise _wrong(path, _framing(size, length, start))
    file.seek(8)
    data = file.read(length)
    if len(data) < length:
        raise _wrong(path, f"is truncated: the header has {length:,} bytes, {len(data):,} are there")
    return data, 8 + length


def _framing(size: int, length: int, start: bytes) -> str:
    if size < 8:
        return f"has {size} bytes; a safetensors file has at least 8"
    if length > MAX_HEADER_BYTES:
        return f"states a header of {length:,} bytes; at most {MAX_HEADER_BYTES:,} are read. Not a safetensors file?"
    if length > size - 8:
        return f"is truncated: the header has {length:,} bytes, the whole file {size:,}"
    if length == 0:
        return "states a header of 0 bytes"
    return f"the header begins with {printable(repr(start[8:9]))}, not with an opening brace"


def _entry(path: Path, name: str, fields: Any, first_byte: int) -> TensorEntry | Problem:
    def problem(message: str) -> Problem:
        return Problem(where=printable(str(path)), key=printable(name, 80), message=message, fix=_AGAIN)

    def shown(value: object) -> str:
        return printable(repr(value), 60)

    if not _NAME.fullmatch(name) or len(name) > MAX_NAME_LENGTH:
        return problem(
            f"is not a tensor name: 1 to {MAX_NAME_LENGTH} letters, digits, '.', '_' and '-' (this has {len(name)})"
        )
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        return problem("needs exactly dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        return problem(f"has dtype {shown(dtype)}; known are {', '.join(DTYPE_BYTES)}")
    if not _is_integers(shape):
        return problem("has a shape that is not a list of whole numbers from 0 to 2^63 - 1")
    if not _is_integers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        return problem(f"has data_offsets {shown(offsets)}; they have to be [start, stop] with 0 <= start <= stop")
    wanted = DTYPE_BYTES[dtype]
    for extent in shape:
        wanted *= extent
        if wanted > _LARGEST:
            return problem(f"has shape {shown(shape)}, more bytes than 64 bits can count")
    if wanted != offsets[1] - offsets[0]:
        span = offsets[1] - offsets[0]
        return problem(f"{dtype} of shape {shown(shape)} takes {wanted:,} bytes, its offsets span {span:,}")
    return TensorEntry(
        name=name,
        file=path,
        dtype=dtype,
        shape=tuple(shape),
        start=first_byte + offsets[0],
        stop=first_byte + offsets[1],
    )


def _is_integers(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item <= _LARGEST for item in value)


def _metadata_problems(path: Path, metadata: Any) -> Iterator[Problem]:
    if not isinstance(metadata, dict) or any(not isinstance(value, str) for value in metadata.values()):
        yield Problem(
            where=printable(str(path)), key="__metadata__", message="has to map text to text", fix="save the file again"
        )


def _coverage_problems(path: Path, ordered: list[TensorEntry], first_byte: int, size: int) -> Iterator[Problem]:
    """Tell where the tensors, in the order of their bytes, leave a hole, overlap, or miss the file's end."""
    position, before = first_byte, "the header"
    for entry in ordered:
        if entry.start != position:
            how = "overlaps" if entry.start < position else f"leaves {entry.start - position:,} unused bytes after"
            message = f"{how} {before}"
            yield Problem(where=printable(str(path)), key=entry.name, message=message, fix="save the file again")
            return
        position, before = entry.stop, entry.name
    if position > size:
        message = f"is truncated: the header describes {position:,} bytes, the file has {size:,}"
        yield Problem(where=printable(str(path)), message=message, fix=_AGAIN)
    elif position < size:
        message = f"has {size - position:,} bytes after the last tensor"
        yield Problem(where=printable(str(path)), message=message, fix=_AGAIN)


def _wrong(path: Path, message: str, fix: str = _AGAIN) -> WeightsError:
    return WeightsError(Problem(where=printable(str(path)), message=message, fix=fix))
