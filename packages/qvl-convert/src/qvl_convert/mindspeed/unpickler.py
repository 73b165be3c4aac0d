"""Read the pickle of a torch checkpoint with an interpreter of our own, which imports and calls nothing.

Python's unpickler is not used, not even restricted: its memory follows numbers that a file states (a memo slot
2^31 takes 32 GiB). This one knows the opcodes that torch's pickler emits, protocols 2 to 5; a name of a class or
function becomes a `Name`, if it is in the table of known ones, and calling it becomes a record of the call. Only
dictionaries, lists, tuples, text, numbers and tensor records are built, within a number of steps, so that memory is
bounded by about 100 MB whatever the file says.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from qvl_core.errors import Problem, WeightsError
from qvl_core.input_file import printable
from qvl_core.weights.safetensors_header import DTYPE_BYTES

from qvl_convert.mindspeed.pickle_records import KNOWN, STORAGE_DTYPES, Call, Name, Storage, TorchTensor

# The pickle of 72B with the state of a training run takes about 100,000.
MAX_STEPS = 500_000
MAX_DIMENSIONS = 8
_LARGEST = 2**63 - 1
_FIX = "if you trust this file, save its weights alone where it was written: {'model': state['model']}"


class _Mark:
    """Where a MARK opcode left the stack."""


_MARK = _Mark()


def unpickle(data: bytes, file: Path) -> Any:
    """Give the value of a pickle, tensors as `TorchTensor`. Raises WeightsError naming the file and what is refused."""
    return _Machine(data, file).run()


class _Machine:
    """A pickle interpreter: a stack, a memo, one method for each group of opcodes."""

    def __init__(self, data: bytes, file: Path) -> None:
        self._data = data
        self._file = file
        self._at = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._storages: dict[str, Storage] = {}

    def run(self) -> Any:
        for _ in range(MAX_STEPS):
            code = self._take(1)[0]
            if code == 0x2E:
                if len(self._stack) != 1 or self._at != len(self._data):
                    self._fail("does not end where its STOP opcode stands")
                return self._pop()
            handler = _HANDLERS.get(code)
            if handler is None:
                self._fail(f"uses the pickle opcode {bytes([code])!r}, which torch never writes")
            handler(self)
        raise self._error(f"takes more than {MAX_STEPS:,} steps; a checkpoint takes about 100,000")

    # Reading

    def _take(self, count: int) -> bytes:
        stop = self._at + count
        if stop > len(self._data):
            self._fail(f"ends in the middle, after {len(self._data):,} bytes")
        taken = self._data[self._at : stop]
        self._at = stop
        return taken

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _line(self) -> str:
        stop = self._data.find(b"\n", self._at, self._at + 300)
        if stop < 0:
            self._fail("holds a name without an end, or of more than 300 characters")
        text = self._take(stop - self._at)
        self._at += 1
        return self._decoded(text)

    def _decoded(self, data: bytes) -> str:
        try:
            return data.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            self._fail("holds text that is not UTF-8")

    # The stack

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            self._fail("takes a value from an empty stack")
        return self._stack.pop()

    def _top(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            self._fail("looks at a value of an empty stack")
        return self._stack[-1]

    def _pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while self._stack:
            item = self._stack.pop()
            if item is _MARK:
                items.reverse()
                return items
            items.append(item)
        raise self._error("closes a group that it never opened")

    # Values

    def proto(self) -> None:
        if not 2 <= self._take(1)[0] <= 5:
            self._fail("is of a protocol other than 2 to 5")

    def frame(self) -> None:
        # Only a hint for buffering: what it holds is read as it stands.
        self._take(8)

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def long(self, width: int) -> None:
        count = self._number("<B" if width == 1 else "<i")
        if not 0 <= count <= 255:
            self._fail(f"holds a whole number of {count:,} bytes")
        self.push(int.from_bytes(self._take(count), "little", signed=True))

    def tuple_of(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    # Containers

    def append(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is not list:
            self._fail(f"appends to {_kind(target)}")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is not dict or len(items) % 2:
            self._fail(f"sets keys of {_kind(target)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._set(target, key, value)

    def _set(self, target: dict[Any, Any], key: Any, value: Any) -> None:
        # Hashing a deeply nested tuple overflows Python's own stack; large numbers can be made to collide.
        if type(key) is str or (type(key) is int and abs(key) <= _LARGEST):
            if key in target:
                self._fail(f"sets the key {printable(str(key), 80)} twice")
            target[key] = value
        else:
            self._fail(f"has {_kind(key)} as a key")

    # The memo

    def put(self, index: int) -> None:
        if index > MAX_STEPS:
            self._fail(f"numbers a value {index:,}; there cannot be so many")
        self._memo[index] = self._top()

    def get(self, index: int) -> None:
        if index not in self._memo:
            self._fail(f"refers to the value {index:,}, which is not there")
        self.push(self._memo[index])

    # Names and calls

    def name(self, module: str, name: str) -> None:
        if name not in KNOWN.get(module, ()):
            full = printable(f"{module}.{name}", 160)
            self._fail(f"names {full}, which a checkpoint of this kind has no use for; nothing of it was run", key=full)
        self.push(Name(module, name))

    def stack_name(self) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            self._fail("names a class by something that is not text")
        self.name(module, name)

    def call(self) -> None:
        arguments, function = self._pop(), self._pop()
        if type(function) is not Name or type(arguments) is not tuple:
            self._fail(f"calls {_kind(function)}, with {_kind(arguments)}")
        self.push(self._called(function, arguments))

    def _called(self, function: Name, arguments: tuple[Any, ...]) -> Any:
        name = function.name
        if name == "OrderedDict" and not arguments:
            return {}
        if name == "_rebuild_tensor_v2":
            return self._tensor(arguments)
        if name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            if not arguments or type(arguments[0]) is not TorchTensor:
                self._fail("rebuilds a parameter from something that is no tensor")
            return arguments[0]
        if name == "_rebuild_from_type_v2":
            return self._tensor_of_type(arguments)
        return Call(function, arguments, [])

    def build(self) -> None:
        state, target = self._pop(), self._top()
        # A dictionary's own attributes (`_metadata` of a state dict) say nothing of the weights.
        if type(target) is Call:
            target.state.append(state)
        elif type(target) is not dict and type(target) is not TorchTensor:
            self._fail(f"sets the state of {_kind(target)}")

    # Tensors

    def persistent(self) -> None:
        value = self._pop()
        if type(value) is not tuple or len(value) not in (5, 6) or value[0] != "storage":
            self._fail("refers to something outside of it that is no storage")
        _, kind, key, location, count = value[:5]
        # torch gives the class of the storage, MSAdapter its name.
        kind = kind.name if type(kind) is Name else kind
        if type(kind) is not str or kind not in STORAGE_DTYPES:
            self._fail(f"holds a storage of {_kind(kind)}; known are {', '.join(STORAGE_DTYPES)}")
        if type(key) is not str or not key.isalnum() or len(key) > 40 or type(location) is not str:
            self._fail("holds a storage without a plain key")
        if type(count) is not int or not 0 <= count <= _LARGEST // 8:
            self._fail(f"holds a storage of {_shown(count)} elements", key=f"data/{key}")
        storage = Storage(key, STORAGE_DTYPES[kind], count)
        if self._storages.setdefault(key, storage) != storage:
            self._fail("describes one storage in two ways", key=f"data/{key}")
        self.push(self._storages[key])

    def _tensor(self, arguments: tuple[Any, ...]) -> TorchTensor:
        if len(arguments) not in (6, 7) or type(arguments[0]) is not Storage:
            self._fail("rebuilds a tensor from something that is no storage")
        storage, offset, shape, strides = arguments[0], arguments[1], _sizes(arguments[2]), _sizes(arguments[3])
        where = f"data/{storage.key}"
        if shape is None or strides is None or len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
            self._fail("is a tensor whose shape and strides are not lists of whole numbers of one length", key=where)
        if not _is_size(offset):
            self._fail(f"is a tensor that begins at element {_shown(offset)}", key=where)
        tensor = TorchTensor(storage, offset, shape, strides)
        last = offset + sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True))
        if tensor.size * DTYPE_BYTES[storage.dtype] > _LARGEST or (tensor.size and last >= storage.count):
            message = f"is a tensor of shape {list(shape)} that ends at element {last:,} of {storage.count:,}"
            self._fail(message, key=where)
        return tensor

    def _tensor_of_type(self, arguments: tuple[Any, ...]) -> TorchTensor:
        """Give the tensor of (function, class, its arguments, state): how a subclass of a tensor is written."""
        if len(arguments) != 4 or type(arguments[0]) is not Name or type(arguments[2]) is not tuple:
            self._fail("rebuilds a tensor of a class from something else")
        inner = arguments[0]
        if inner.name not in ("_rebuild_tensor_v2", "_rebuild_parameter"):
            self._fail(f"rebuilds a tensor by {inner.module}.{inner.name}")
        found = self._called(inner, arguments[2])
        assert isinstance(found, TorchTensor)
        return found

    def _fail(self, message: str, key: str = "") -> NoReturn:
        raise self._error(message, key)

    def _error(self, message: str, key: str = "") -> WeightsError:
        where = f"{printable(str(self._file))}: data.pkl"
        return WeightsError(Problem(where=where, key=key, message=message, fix=_FIX))

    # What the table of opcodes calls

    def text(self, form: str) -> None:
        self.push(self._decoded(self._take(self._number(form))))

    def binary(self, form: str) -> None:
        self.push(self._take(self._number(form)))

    def number(self, form: str) -> None:
        self.push(self._number(form))

    def global_name(self) -> None:
        module = self._line()
        self.name(module, self._line())

    def append_one(self) -> None:
        value = self._pop()
        self.append([value])

    def append_group(self) -> None:
        self.append(self._pop_to_mark())

    def set_one(self) -> None:
        value, key = self._pop(), self._pop()
        self.set_items([key, value])

    def set_group(self) -> None:
        self.set_items(self._pop_to_mark())

    def tuple_group(self) -> None:
        self.push(tuple(self._pop_to_mark()))

    def set_of_group(self) -> None:
        """ADDITEMS: the elements of a set are kept as a list, nothing of a checkpoint's weights is in one."""
        items = self._pop_to_mark()
        self.append(items)

    def put_number(self, form: str) -> None:
        self.put(self._number(form))

    def get_number(self, form: str) -> None:
        self.get(self._number(form))

    def memoize(self) -> None:
        self.put(len(self._memo))


def _sizes(value: Any) -> tuple[int, ...] | None:
    if type(value) is Call and value.function.name == "Size" and len(value.arguments) == 1:
        value = value.arguments[0]
    if type(value) not in (tuple, list) or len(value) > MAX_DIMENSIONS or not all(map(_is_size, value)):
        return None
    return tuple(value)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST


def _shown(value: Any) -> str:
    return f"{value:,}" if type(value) is int and abs(value) < 2**80 else _kind(value)


def _kind(value: Any) -> str:
    """Name what a value is, without looking into it: it may be nested without end."""
    if type(value) is Name:
        return printable(f"{value.module}.{value.name}", 160)
    if type(value) is Call:
        return printable(f"a {value.function.module}.{value.function.name}", 160)
    return f"a value of type {type(value).__name__}"


_HANDLERS: Mapping[int, Callable[[_Machine], None]] = {
    0x80: _Machine.proto,
    0x95: _Machine.frame,
    ord("("): lambda machine: machine.push(_MARK),
    ord("N"): lambda machine: machine.push(None),
    0x88: lambda machine: machine.push(True),
    0x89: lambda machine: machine.push(False),
    ord("J"): lambda machine: machine.number("<i"),
    ord("K"): lambda machine: machine.number("<B"),
    ord("M"): lambda machine: machine.number("<H"),
    0x8A: lambda machine: machine.long(1),
    0x8B: lambda machine: machine.long(4),
    ord("G"): lambda machine: machine.number(">d"),
    ord("X"): lambda machine: machine.text("<I"),
    0x8C: lambda machine: machine.text("<B"),
    0x8D: lambda machine: machine.text("<Q"),
    ord("B"): lambda machine: machine.binary("<I"),
    ord("C"): lambda machine: machine.binary("<B"),
    0x8E: lambda machine: machine.binary("<Q"),
    ord(")"): lambda machine: machine.push(()),
    ord("]"): lambda machine: machine.push([]),
    ord("}"): lambda machine: machine.push({}),
    0x8F: lambda machine: machine.push([]),
    ord("a"): _Machine.append_one,
    ord("e"): _Machine.append_group,
    ord("s"): _Machine.set_one,
    ord("u"): _Machine.set_group,
    0x90: _Machine.set_of_group,
    0x85: lambda machine: machine.tuple_of(1),
    0x86: lambda machine: machine.tuple_of(2),
    0x87: lambda machine: machine.tuple_of(3),
    ord("t"): _Machine.tuple_group,
    ord("q"): lambda machine: machine.put_number("<B"),
    ord("r"): lambda machine: machine.put_number("<I"),
    0x94: _Machine.memoize,
    ord("h"): lambda machine: machine.get_number("<B"),
    ord("j"): lambda machine: machine.get_number("<I"),
    ord("c"): _Machine.global_name,
    0x93: _Machine.stack_name,
    ord("R"): _Machine.call,
    0x81: _Machine.call,
    ord("b"): _Machine.build,
    ord("Q"): _Machine.persistent,
}
