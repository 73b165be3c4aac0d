"""Plan an archive of `torch.save`'s form to the last byte: the pickle, and where every tensor's bytes go.

As torch lays it out: top folder, `data.pkl`, `byteorder`, `data/0` ..., `version`, all stored, data at multiples of 64.
Checksums are known only when the tensors were copied, so their headers and the directory are written last. zip64
records stand where a size or place needs more than 32 bits (PKWARE APPNOTE 6.3.9, section 4.5.3).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from qvl_core.weights.safetensors_header import DTYPE_BYTES

from qvl_convert.mindspeed.pickle_records import STORAGE_DTYPES

TOP = "model_optim_rng"
CHECKPOINT_VERSION = 3.0
ALIGNMENT = 64
# From here on a value of 32 bits means "see the zip64 field".
WIDE = 0xFFFFFFFF

_STORAGES = {dtype: name for name, dtype in STORAGE_DTYPES.items() if name != "UntypedStorage"}
_PADDING_FIELD = 0x4246  # what torch takes
_NEW_YEAR_1980 = 1 << 5 | 1  # the earliest date that the format can say
_PLAIN_VERSION, _ZIP64_VERSION = 20, 45

Finish = Callable[[Mapping[str, str]], Iterator[tuple[int, bytes]]]


@dataclass(frozen=True, kw_only=True)
class TensorOutline:
    """A tensor of the model: its key, dtype and shape."""

    key: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Elements of the tensor."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return self.elements * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, kw_only=True)
class ArchivePlan:
    """An archive: `starts` says where each tensor's bytes begin, by key.

    `fixed` are the bytes known now. `finish` gives the others from the tensors' checksums, `crc32:` and 8 digits, by
    key.
    """

    size: int
    starts: Mapping[str, int]
    fixed: tuple[tuple[int, bytes], ...]
    finish: Finish


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """An entry at `header`. `tensor` is the key of the tensor that it holds, None where `data` is known."""

    name: bytes
    header: int
    start: int
    size: int
    tensor: str | None = None
    data: bytes = b""


def plan_archive(tensors: Sequence[TensorOutline], *, wide: int = WIDE) -> ArchivePlan:
    """Give the archive of a model's tensors, in this order. A lower `wide` makes zip64 records without large files."""
    entries = list(_placed(tensors, wide))
    directory = entries[-1].start + entries[-1].size
    fixed = []
    for entry in entries:
        if entry.tensor is None:
            fixed += [(entry.header, _local_header(entry, zlib.crc32(entry.data), wide)), (entry.start, entry.data)]

    def finish(checksums: Mapping[str, str]) -> Iterator[tuple[int, bytes]]:
        listed = b""
        for entry in entries:
            if entry.tensor is None:
                crc = zlib.crc32(entry.data)
            else:
                crc = int(checksums[entry.tensor].removeprefix("crc32:"), 16)
                yield entry.header, _local_header(entry, crc, wide)
            listed += _listing(entry, crc, wide)
        yield directory, listed + _end(len(entries), len(listed), directory, wide)

    none = dict.fromkeys((tensor.key for tensor in tensors), "crc32:00000000")
    end = list(finish(none))[-1]
    return ArchivePlan(
        size=end[0] + len(end[1]),
        starts={entry.tensor: entry.start for entry in entries if entry.tensor is not None},
        fixed=tuple(fixed),
        finish=finish,
    )


def _placed(tensors: Sequence[TensorOutline], wide: int) -> Iterator[_Entry]:
    position = 0
    contents: list[tuple[str, int, bytes, str | None]] = [
        ("data.pkl", 0, pickle_of(tensors), None),
        ("byteorder", 0, b"little", None),
        *((f"data/{number}", tensor.size, b"", tensor.key) for number, tensor in enumerate(tensors)),
        ("version", 0, b"3\n", None),
    ]
    for name, size, data, tensor in contents:
        size = size or len(data)
        full = f"{TOP}/{name}".encode()
        bare = position + 30 + len(full) + (20 if size >= wide else 0) + 4
        start = bare + -bare % ALIGNMENT
        yield _Entry(name=full, header=position, start=start, size=size, tensor=tensor, data=data)
        position = start + size


def _local_header(entry: _Entry, crc: int, wide: int) -> bytes:
    extra = struct.pack("<2H2Q", 1, 16, entry.size, entry.size) if entry.size >= wide else b""
    size = WIDE if entry.size >= wide else entry.size
    version = _ZIP64_VERSION if extra else _PLAIN_VERSION
    padding = entry.start - entry.header - 30 - len(entry.name) - len(extra) - 4
    extra += struct.pack("<2H", _PADDING_FIELD, padding) + b"Z" * padding
    fields = (b"PK\x03\x04", version, 0, 0, 0, _NEW_YEAR_1980, crc, size, size, len(entry.name), len(extra))
    return struct.pack("<4s5H3L2H", *fields) + entry.name + extra


def _listing(entry: _Entry, crc: int, wide: int) -> bytes:
    size = WIDE if entry.size >= wide else entry.size
    header = WIDE if entry.header >= wide else entry.header
    values = [entry.size] * 2 * (size == WIDE) + [entry.header] * (header == WIDE)
    extra = struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values) if values else b""
    version = _ZIP64_VERSION if extra else _PLAIN_VERSION
    return (
        struct.pack("<4s6H3L", b"PK\x01\x02", version, version, 0, 0, 0, _NEW_YEAR_1980, crc, size, size)
        + struct.pack("<5H2L", len(entry.name), len(extra), 0, 0, 0, 0, header)
        + entry.name
        + extra
    )


def _end(count: int, length: int, start: int, wide: int) -> bytes:
    stop = start + length
    many, far = count >= 0xFFFF, start >= wide or length >= wide
    record = b""
    if many or far:
        record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, length, start)
        record += struct.pack("<4sLQL", b"PK\x06\x07", 0, stop, 1)
    short = 0xFFFF if many else count
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, short, short, *((WIDE, WIDE) if far else (length, start)), 0)
    return record + end


def pickle_of(tensors: Sequence[TensorOutline]) -> bytes:
    """Give the pickle, protocol 2, of `{'model': OrderedDict(key -> tensor), 'checkpoint_version': 3.0}`.

    Tensor number n lies in entry `data/n`. The names are torch's own, which MSAdapter reads as well.
    """
    writer = _PickleWriter()
    model = writer.ordered_dict() + b"("
    model += b"".join(_text(tensor.key) + writer.tensor(str(number), tensor) for number, tensor in enumerate(tensors))
    model += b"u"
    version = _text("checkpoint_version") + b"G" + struct.pack(">d", CHECKPOINT_VERSION)
    return b"\x80\x02}(" + _text("model") + model + version + b"u."


class _PickleWriter:
    """Writes opcodes; a name is written once and then taken from the memo."""

    def __init__(self) -> None:
        self._memo: dict[str, int] = {}

    def tensor(self, key: str, tensor: TensorOutline) -> bytes:
        """Rebuild a tensor that lies densely in a storage of its own."""
        # Names first: the order in which they come into the memo has to be the order of the bytes.
        function = self._name("torch._utils", "_rebuild_tensor_v2")
        kind = self._name("torch", _STORAGES[tensor.dtype])
        storage = b"(" + _text("storage") + kind + _text(key) + _text("cpu") + _number(tensor.elements) + b"tQ"
        view = _number(0) + _tuple(tensor.shape) + _tuple(_dense_strides(tensor.shape))
        return function + b"(" + storage + view + b"\x89" + self.ordered_dict() + b"tR"

    def ordered_dict(self) -> bytes:
        """Make a new dictionary."""
        return self._name("collections", "OrderedDict") + b")R"

    def _name(self, module: str, name: str) -> bytes:
        if name in self._memo:
            return b"h" + bytes([self._memo[name]])
        self._memo[name] = len(self._memo)
        return f"c{module}\n{name}\nq".encode() + bytes([self._memo[name]])


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _number(value: int) -> bytes:
    if value < 256:
        return b"K" + bytes([value])
    if value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def _tuple(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(_number, values)) + b"t"


def _dense_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(step)
        step *= extent
    return tuple(reversed(strides))
