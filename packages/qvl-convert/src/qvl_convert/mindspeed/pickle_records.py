"""What the pickle of a checkpoint may name, and the inert records that its values become.

The names were taken from files that torch saved, from Megatron-LM core_r0.8.0 and MindSpeed-MM 2.1.0, and from public
sources of MSAdapter, which emulates torch on MindSpore: its package is `msadapter` (`mindtorch` in MindNLP), a tensor
is rebuilt through `_rebuild_from_type_v2`, and a storage names its kind as text, not as a class. No file of that stack
was at hand; what `args` of a training run there names of `mindspore` is a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# What a storage class says of its elements, in the words of safetensors.
STORAGE_DTYPES: Mapping[str, str] = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL", "UntypedStorage": "U8",
}  # fmt: skip
# torch itself, and its emulations on MindSpore.
_TORCHES = ("torch", "msadapter", "mindtorch")
_DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"),
    *("float8_e4m3fn", "float8_e5m2"),
)
_BUILTINS = (
    *("set", "frozenset", "bytearray", "complex", "object", "list", "dict", "tuple"),
    *("int", "float", "str", "bool"),
)
# Exactly these, each as it is spelled in a pickle; anything else is refused.
KNOWN: Mapping[str, tuple[str, ...]] = {
    "collections": ("OrderedDict",),
    "_codecs": ("encode",),
    "builtins": _BUILTINS,
    "__builtin__": _BUILTINS,
    "argparse": ("Namespace",),
    "types": ("SimpleNamespace",),
    "pathlib": ("PosixPath", "PurePosixPath"),
    "signal": ("Signals",),
    "datetime": ("timedelta",),
    "numpy": ("ndarray", "dtype"),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
    "megatron.core.enums": ("ModelType",),
    "megatron.core.transformer.enums": ("ModelType", "AttnBackend", "AttnMaskType", "AttnType", "LayerType"),
    "megatron.core.rerun_state_machine": ("RerunMode", "RerunState", "RerunDiagnostic"),
    "megatron.legacy.model.enums": ("ModelType", "LayerType", "AttnType", "AttnMaskType"),
    "mindspeed_mm.configs.config": ("MMConfig", "ConfigReader"),
    "mindspore.common.tensor": ("Tensor",),
    "mindspore.common.parameter": ("Parameter",),
    "mindspore.common._stub_tensor": ("StubTensor",),
    "mindspore._c_expression.typing": ("BFloat", "Float", "Int", "UInt", "Bool"),
    **dict.fromkeys(_TORCHES, ("Tensor", "Size", "device", *_DTYPES, *STORAGE_DTYPES)),
    **{f"{name}.storage": tuple(STORAGE_DTYPES) for name in _TORCHES},
    **{f"{name}._tensor": ("Tensor", "_rebuild_from_type_v2") for name in _TORCHES},
    **{f"{name}.nn.parameter": ("Parameter",) for name in _TORCHES},
    **{
        f"{name}._utils": ("_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state")
        for name in _TORCHES
    },
    **{f"{name}._C.size": ("Size",) for name in _TORCHES},
    **{f"{name}.types": ("device",) for name in _TORCHES},
}


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function by name; nothing was imported."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """What calling a known name with arguments would give; nothing was called. `state` is set by BUILD."""

    function: Name
    arguments: tuple[Any, ...]
    state: list[Any]


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage: entry `data/<key>` of the archive, with `count` elements."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True, slots=True)
class TorchTensor:
    """A tensor: a view of a storage. `offset` and `strides` count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements of the tensor."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count

    @property
    def is_dense(self) -> bool:
        """Whether the elements follow each other in the order of rows."""
        step = 1
        for extent, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if extent != 1 and stride != step:
                return False
            step *= extent
        return True
