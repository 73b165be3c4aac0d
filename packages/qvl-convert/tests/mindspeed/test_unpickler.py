"""Pickles that are not a checkpoint's: nothing of them runs, and memory stays bounded."""

import pickle
import pickletools
import resource
import struct
import time
from collections import OrderedDict
from pathlib import Path

import pytest
from qvl_convert.mindspeed.pickle_records import KNOWN, Name, TorchTensor
from qvl_convert.mindspeed.unpickler import MAX_STEPS, unpickle
from qvl_core.errors import WeightsError

FILE = Path("model_optim_rng.pt")


def refusal(data):
    with pytest.raises(WeightsError) as error:
        unpickle(data, FILE)
    assert "model_optim_rng.pt: data.pkl" in str(error.value)
    return str(error.value)


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def bounded(data, limit_mb=120, seconds=120):
    """Refuse within bounds, and give the refusal's text."""
    before, start = peak_mb(), time.process_time()
    text = refusal(data)
    # The process's own high-water mark: it can only rise.
    assert peak_mb() - before < limit_mb
    assert time.process_time() - start < seconds
    assert len(text) < 2000
    return text


def name(module, function):
    return f"c{module}\n{function}\n".encode()


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reads_plain_values_of_every_protocol(protocol):
    value = {
        "a": [1, -1, 255, 256, 65535, 65536, 2**31, -(2**40), 2**200],
        "b": (None, True, False, 1.5, "甲", b"bytes", (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "c": {"d": {}, "e": []},
        5: "number",
        "long": "x" * 300,
    }
    value["again"] = value["a"]
    if protocol == 2:
        # Bytes are written as a call of _codecs.encode in this one.
        value["b"] = (None, 1.5)
    assert unpickle(pickle.dumps(value, protocol), FILE) == value


def test_reads_an_ordered_dict_as_a_dictionary():
    found = unpickle(pickle.dumps(OrderedDict(a=1, b=2), 2), FILE)
    assert list(found.items()) == [("a", 1), ("b", 2)]


class Payload:
    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_an_os_system_payload_is_refused_and_not_run(tmp_path, protocol):
    import os

    marker = tmp_path / "marker"
    refused = refusal(pickle.dumps({"model": Payload(os.system, f"touch {marker}")}, protocol))
    assert "posix.system" in refused or protocol < 2
    assert not marker.exists()


@pytest.mark.parametrize(
    ("module", "function"),
    [
        *(("os", "system"), ("posix", "system"), ("subprocess", "Popen"), ("builtins", "eval"), ("builtins", "exec")),
        *(("builtins", "getattr"), ("__builtin__", "getattr"), ("builtins", "__import__"), ("builtins", "open")),
        *(("builtins", "compile"), ("builtins", "map"), ("builtins", "print"), ("nt", "system"), ("sys", "modules")),
        *(("operator", "attrgetter"), ("functools", "partial"), ("copyreg", "_reconstructor"), ("runpy", "run_path")),
        *(("importlib", "import_module"), ("numpy", "load"), ("numpy.f2py.crackfortran", "getlincoef")),
        *(("torch", "load"), ("torch.hub", "load"), ("torch.jit", "load"), ("torch._utils", "_import_dotted_name")),
        *(
            ("torch", "__dict__"),
            ("torch.storage", "_load_from_bytes"),
            ("torch", "os.system"),
            ("", ""),
            ("torch", ""),
        ),
        *(("collections", "OrderedDict.fromkeys"), ("argparse", "Namespace.__init__.__globals__"), ("ctypes", "CDLL")),
        *(
            ("collections", "namedtuple"),
            ("pickle", "loads"),
            ("io", "open"),
            ("pathlib", "Path"),
            ("types", "CodeType"),
        ),
    ],
)
def test_refuses_every_name_but_the_known_ones(module, function):
    classic = refusal(b"\x80\x02" + name(module, function) + b")R.")
    assert f"names {module}.{function}," in classic
    assert "nothing of it was run" in classic
    stacked = b"\x80\x04\x8c" + bytes([len(module)]) + module.encode()
    stacked += b"\x8c" + bytes([len(function)]) + function.encode() + b"\x93)R."
    assert f"names {module}.{function}," in refusal(stacked)


def test_calling_a_known_name_calls_nothing(tmp_path):
    import sys

    before = set(sys.modules)
    for module, names in KNOWN.items():
        for function in names:
            data = b"\x80\x02" + name(module, function) + text(str(tmp_path / "x")) + b"\x85\x81."
            if function.startswith("_rebuild"):
                refusal(data)
            else:
                assert unpickle(data, FILE).function == Name(module, function)
    assert set(sys.modules) == before
    assert list(tmp_path.iterdir()) == []


def test_building_the_state_of_a_known_object_touches_nothing():
    data = b"\x80\x02" + name("argparse", "Namespace") + b")\x81}" + text("__class__") + name("torch", "Size") + b"sb."
    found = unpickle(data, FILE)
    assert found.state == [{"__class__": Name("torch", "Size")}]


@pytest.mark.parametrize(
    "opcode",
    sorted(
        {item.code for item in pickletools.opcodes}
        - set("(.NJKMGXBC)]}aeus t qrhjcRbQ".replace(" ", ""))
        - {chr(code) for code in (0x80, 0x95, 0x88, 0x89, 0x8A, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90, 0x85, 0x86, 0x87)}
        - {chr(code) for code in (0x94, 0x93, 0x81)}
    ),
    ids=lambda code: f"{ord(code):#04x}",
)
def test_refuses_every_opcode_that_torch_never_writes(opcode):
    data = b"\x80\x02" + opcode.encode("latin-1") + b"\x01\x00\x00\x00\x00\x00\x00\x00\n."
    assert "uses the pickle opcode" in refusal(data)


HUGE = struct.pack("<Q", 2**62)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "ends in the middle"),
        (b"\x80", "ends in the middle"),
        (b"\x80\x02", "ends in the middle"),
        (b"\x80\x00N.", "protocol"),
        (b"\x80\x06N.", "protocol"),
        (b"\x80\x02.", "does not end"),
        (b"\x80\x02NN.", "does not end"),
        (b"\x80\x02N.N", "does not end"),
        (b"\x80\x02(.", "empty stack"),
        (b"\x80\x02X\xff\xff\xff\xff", "ends in the middle"),
        (b"\x80\x04\x8d" + HUGE, "ends in the middle"),
        (b"\x80\x04\x8e" + HUGE, "ends in the middle"),
        (b"\x80\x03B\xff\xff\xff\xff", "ends in the middle"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f", "a whole number of 2,147,483,647 bytes"),
        (b"\x80\x02\x8b\xff\xff\xff\xff", "a whole number of -1 bytes"),
        (b"\x80\x02Nr\xff\xff\xff\x7f.", "numbers a value 2,147,483,647"),
        (b"\x80\x02Nj\xff\xff\xff\x7f.", "which is not there"),
        (b"\x80\x02h\x00.", "which is not there"),
        (b"\x80\x02q\x00.", "empty stack"),
        (b"\x80\x02(q\x00.", "empty stack"),
        (b"\x80\x02t.", "a group that it never opened"),
        (b"\x80\x02\x87.", "empty stack"),
        (b"\x80\x02N(\x85.", "empty stack"),
        (b"\x80\x02NNa.", "appends to a value of type NoneType"),
        (b"\x80\x02](NNu.", "sets keys of a value of type list"),
        (b"\x80\x02}(Nu.", "sets keys of"),
        (b"\x80\x02}]Ns.", "has a value of type list as a key"),
        (b"\x80\x02}GAAAAAAAANs.", "has a value of type float as a key"),
        (b"\x80\x02})Ns.", "has a value of type tuple as a key"),
        (b"\x80\x02}\x8a\x09\0\0\0\0\0\0\0\0\x01Ns.", "has a value of type int as a key"),
        (b"\x80\x02}K\x01NsK\x01Ns.", "twice"),
        (b"\x80\x02NNR.", "calls a value of type NoneType"),
        (b"\x80\x02" + name("torch", "Size") + b"NR.", "with a value of type NoneType"),
        (b"\x80\x02" + name("torch", "Size") + b")R)R.", "calls a torch.Size"),
        (b"\x80\x02NNb.", "sets the state of a value of type NoneType"),
        (b"\x80\x02" + name("torch", "Size") + b"Nb.", "sets the state of torch.Size"),
        (b"\x80\x02NQ.", "something outside"),
        (b"\x80\x02X\x02\x00\x00\x00\xff\xff.", "not UTF-8"),
        (b"\x80\x02c" + b"a" * 400 + b"\n\n.", "of more than 300 characters"),
        (b"\x80\x02ctorch\nSize", "without an end"),
        (b"\x80\x04NN\x93.", "not text"),
    ],
)
def test_refuses_a_malformed_pickle(data, expected):
    assert expected in bounded(data, limit_mb=20)


def storage(kind=None, key="0", count=10, location="cpu"):
    kind = name("torch", "FloatStorage") if kind is None else kind
    number = b"\x8a\x09" + count.to_bytes(9, "little", signed=True)
    return b"(" + text("storage") + kind + text(key) + text(location) + number + b"tQ"


def tensor(offset=0, shape=(2, 5), strides=(5, 1), store=None):
    def numbers(values):
        return b"(" + b"".join(b"\x8a\x09" + value.to_bytes(9, "little", signed=True) for value in values) + b"t"

    store = storage() if store is None else store
    begin = b"\x8a\x09" + offset.to_bytes(9, "little", signed=True)
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    return b"\x80\x02" + rebuild + b"(" + store + begin + numbers(shape) + numbers(strides) + b"\x89NtR."


def test_reads_a_tensor():
    found = unpickle(tensor(), FILE)
    assert isinstance(found, TorchTensor)
    assert (found.shape, found.strides, found.offset, found.storage.dtype) == ((2, 5), (5, 1), 0, "F32")
    assert found.is_dense
    assert unpickle(tensor(shape=(), strides=(), offset=9), FILE).size == 1
    assert not unpickle(tensor(shape=(5, 2), strides=(1, 5)), FILE).is_dense
    assert unpickle(tensor(shape=(1, 5), strides=(77, 1)), FILE).is_dense


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (tensor(shape=(2, 6), strides=(6, 1)), "ends at element 11 of 10"),
        (tensor(offset=1), "ends at element 10 of 10"),
        (tensor(strides=(6, 1)), "ends at element 10 of 10"),
        (tensor(offset=-1), "begins at element -1"),
        (tensor(offset=2**63), "begins at element"),
        (tensor(shape=(2, -5)), "not lists of whole numbers"),
        (tensor(strides=(5, -1)), "not lists of whole numbers"),
        (tensor(shape=(2,)), "of one length"),
        (tensor(shape=(1,) * 9, strides=(1,) * 9), "not lists of whole numbers"),
        (tensor(shape=(2**62, 2**62), strides=(0, 0)), "shape [4611686018427387904, 4611686018427387904]"),
        (tensor(store=storage(count=-1)), "a storage of -1 elements"),
        (tensor(store=storage(count=2**62)), "a storage of 4,611,686,018,427,387,904 elements"),
        (tensor(store=storage(key="../0")), "without a plain key"),
        (tensor(store=storage(key="")), "without a plain key"),
        (tensor(store=storage(kind=text("os.system"))), "known are"),
        (tensor(store=storage(kind=name("torch", "Size"))), "known are"),
        (tensor(store=b"N"), "something that is no storage"),
        (b"\x80\x02" + storage() + storage(count=11) + b"\x86.", "describes one storage in two ways"),
        (b"\x80\x02" + name("torch._utils", "_rebuild_parameter") + b"N\x89N\x87R.", "something that is no tensor"),
        (b"\x80\x02" + name("torch._tensor", "_rebuild_from_type_v2") + b"(NNNNtR.", "of a class from something"),
    ],
)
def test_refuses_an_impossible_tensor(data, expected):
    assert expected in bounded(data, limit_mb=20)


def test_refuses_a_tensor_rebuilt_by_another_function():
    inner = name("torch._tensor", "_rebuild_from_type_v2")
    data = b"\x80\x02" + inner + b"(" + inner + name("torch", "Tensor") + b")NtR."
    assert "rebuilds a tensor by torch._tensor._rebuild_from_type_v2" in refusal(data)


@pytest.mark.parametrize("opcode", [b"]", b"}", b"("], ids=repr)
def test_a_flood_of_values_is_stopped(opcode):
    assert f"more than {MAX_STEPS:,} steps" in bounded(b"\x80\x02" + opcode * (MAX_STEPS + 10))


def test_deep_nesting_is_read_without_recursion():
    depth = 150_000
    value = unpickle(b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b".", FILE)
    assert len(value) == 1
    nested = unpickle(b"\x80\x02)" + b"\x85" * depth + b".", FILE)
    assert len(nested) == 1
    assert "as a key" in bounded(b"\x80\x02})" + b"\x85" * depth + b"Ns.")


def test_doubling_by_the_memo_makes_no_copies():
    data = b"\x80\x02)q\x00" + b"".join(b"h%c" % i + b"h%c" % i + b"\x86q%c" % (i + 1) for i in range(200)) + b"h\xc8."
    assert "does not end" in bounded(data)


def test_a_long_text_called_often_is_not_copied():
    call = name("_codecs", "encode") + b"q\x01" + text("x" * 4_000_000) + b"\x85q\x02"
    data = b"\x80\x02(" + call + b"h\x01h\x02R" * 50_000 + b"t."
    before = peak_mb()
    unpickle(data, FILE)
    assert peak_mb() - before < 100


def test_numbers_that_hash_alike_cannot_be_keys():
    modulus = 2**61 - 1
    items = b"".join(pickle.dumps(modulus * i, 2)[2:-1] + b"N" for i in range(1, 50))
    assert "as a key" in refusal(b"\x80\x02}(" + items + b"u.")


def test_a_dictionary_that_holds_itself_is_no_trouble():
    value = unpickle(b"\x80\x02}q\x00" + text("a") + b"h\x00s.", FILE)
    assert value["a"] is value
