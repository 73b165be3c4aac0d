"""Open a LoRA adapter in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`, nothing else."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qvl_core.errors import InputChangedError, Problem, WeightsError
from qvl_core.input_file import open_regular_file, printable, readable
from qvl_core.weights.hf_folder import WEIGHT_DTYPES
from qvl_core.weights.lora.adapter_config import CONFIG_FILE, MERGE_WITH_PEFT, AdapterConfig, read_adapter_config
from qvl_core.weights.names import Naming, naming_of, spell, to_classic
from qvl_core.weights.raw_bytes import PIECE_BYTES, read_into
from qvl_core.weights.safetensors_header import DTYPE_BYTES, SafetensorsHeader, TensorEntry, file_stamp, read_header
from qvl_core.weights.tensor_io import raw_to_float32
from qvl_core.weights.whole_tensors import Input

WEIGHTS_FILE = "adapter_model.safetensors"
SHOWN = 10

_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])(?:\.(?P<adapter>[^.]+))?\.weight")
_BASE = re.compile(r"(?P<module>.+)\.base_layer\.weight")
_SAVED = re.compile(r"(?P<module>.+)\.modules_to_save\.(?P<adapter>[^.]+)\.(?P<parameter>[^.]+)")
# Raw bits; numpy has no bfloat16.
_BITS: Mapping[str, type[np.generic]] = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """An opened adapter, by classic names of the base's tensors.

    `factors_a` and `factors_b` map a weight to its low-rank factors, `whole` maps parameters to tensors that replace
    them. `bases` are base weights that PEFT saved beside the factors, as it does for a head: the factors are added to
    those. `identity` changes with every bit of configuration and weights.
    """

    path: Path
    config: AdapterConfig
    naming: Naming
    factors_a: Mapping[str, TensorEntry]
    factors_b: Mapping[str, TensorEntry]
    whole: Mapping[str, TensorEntry]
    bases: Mapping[str, TensorEntry]
    inputs: tuple[Input, ...]
    identity: str

    def key_of(self, name: str, part: str) -> str:
        """Spell the key that PEFT has for `part` (`lora_A.weight`, `lora_B.weight`) of a weight's module."""
        return f"{_PREFIX}{spell(name, self.naming).removesuffix('weight')}{part}"

    def key_of_whole(self, name: str) -> str:
        """Spell the key that PEFT has for a tensor that is replaced."""
        return f"{_PREFIX}{spell(name, self.naming)}"

    def read_rows(self, entry: TensorEntry, first: int, stop: int) -> NDArray[np.float32]:
        """Give rows of a tensor as float32 [rows, the rest]. Raises InputChangedError if the file has changed."""
        rows = max(1, entry.shape[0])
        row_bytes = entry.size // rows
        data = bytearray((stop - first) * row_bytes)
        # Opened anew each time: a transform has no moment at which it could close a file.
        with open_regular_file(entry.file) as file:
            stamp = next(one.stamp for one in self.inputs if one.path == entry.file)
            if file_stamp(os.fstat(file.fileno())) != stamp:
                raise InputChangedError(f"{entry.file}: was written or replaced while it was read; start again")
            read_into(file.fileno(), entry.start + first * row_bytes, memoryview(data), entry.file)
        return _to_float32(data, entry.dtype).reshape(stop - first, -1)


def open_adapter(folder: str | Path, *, advance: Callable[[int], None] = lambda _: None) -> Adapter:
    """Open and check an adapter; reads it once through. `advance` is told the bytes read.

    Raises WeightsError for what is damaged, hostile or cannot be merged, and for a NaN or infinity in a tensor.
    """
    path = Path(folder)
    where = printable(str(path))
    with readable(path):
        if not path.is_dir():
            message = "is not a folder" if path.exists() else "there is no such folder"
            raise WeightsError(Problem(where=where, message=message, fix="give the folder that PEFT wrote"))
        names = sorted(entry.name for entry in path.iterdir())
    if CONFIG_FILE not in names:
        raise WeightsError(_without_config(where, names))
    config = read_adapter_config(path / CONFIG_FILE)
    if WEIGHTS_FILE not in names:
        raise WeightsError(_without_weights(where, names))
    header = read_header(path / WEIGHTS_FILE)
    naming, tensors = _by_name(header)
    digest = _read_through(header, advance)
    return Adapter(
        path=path,
        config=config.config,
        naming=naming,
        factors_a=tensors["A"],
        factors_b=tensors["B"],
        whole=tensors["whole"],
        bases=tensors["base"],
        inputs=(
            Input(path=path / CONFIG_FILE, stamp=config.stamp),
            Input(path=path / WEIGHTS_FILE, stamp=header.stamp),
        ),
        identity=f"lora sha256:{config.digest} sha256:{digest}",
    )


def listed(where: str, what: str, items: list[str], fix: str) -> list[Problem]:
    """Give no problem for no items, else one: the count, what they are, and the first of them."""
    if not items:
        return []
    more = [f"... and {len(items) - SHOWN} more"] if len(items) > SHOWN else []
    lines = [f"{len(items)} {what}:", *(printable(item) for item in items[:SHOWN]), *more]
    return [Problem(where=where, message="\n".join(lines), fix=fix)]


def _without_config(where: str, names: list[str]) -> Problem:
    if "config.json" in names:
        message = f"holds config.json but no {CONFIG_FILE}: is this a whole model?"
    else:
        message = f"holds no {CONFIG_FILE}"
    return Problem(where=where, message=message, fix="give the folder that PEFT's save_pretrained wrote")


def _without_weights(where: str, names: list[str]) -> Problem:
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    parts = [name for name in names if name.endswith((".safetensors", ".safetensors.index.json"))]
    if pickles:
        message = f"holds no {WEIGHTS_FILE}; {printable(pickles[0], 80)} may be a pickle, which qvl never loads"
        fix = "save it again where you have peft: model.save_pretrained(dir, safe_serialization=True)"
    elif parts:
        message = f"holds {printable(parts[0], 80)} but no {WEIGHTS_FILE}; PEFT writes an adapter into that one file"
        fix = "load it where you have peft, and save it again: model.save_pretrained(dir)"
    else:
        message, fix = f"holds no {WEIGHTS_FILE}", "copy the adapter's weights into it as well"
    return Problem(where=where, message=message, fix=fix)


def _by_name(header: SafetensorsHeader) -> tuple[Naming, dict[str, dict[str, TensorEntry]]]:
    """Sort the tensors by what they are to the base. Raises WeightsError for keys that are none of PEFT's."""
    where = printable(str(header.file))
    keys = {key: key.removeprefix(_PREFIX) for key in header.tensors}
    foreign = [key for key, name in keys.items() if name == key]
    if not keys or foreign:
        what = f"keys do not begin with {_PREFIX}, as PEFT's do"
        fix = "save the adapter with peft's save_pretrained"
        empty = Problem(where=where, message="holds no tensors", fix=fix)
        raise WeightsError(listed(where, what, foreign, fix) or empty)
    naming = naming_of(list(keys.values()))
    problems = listed(
        where,
        f"keys are in the classic spelling, others in the new one ({spell('visual', 'new')}.*)",
        [key for key, name in keys.items() if spell(to_classic(name), naming) != name],
        "save the adapter again with one version of transformers",
    )
    tensors: dict[str, dict[str, TensorEntry]] = {"A": {}, "B": {}, "whole": {}, "base": {}}
    adapters, twice = set(), []
    for key, name in keys.items():
        kind, target, adapter = _kind_of(name)
        if target in tensors[kind]:
            twice.append(key)
        if adapter:
            adapters.add(adapter)
        tensors[kind][target] = header.tensors[key]
    # A key without an adapter's name and one with it may stand side by side only by mistake.
    if twice or len(adapters) > 1:
        names = ", ".join(sorted(printable(name, 40) for name in adapters)[:SHOWN])
        message = f"holds the tensors of more than one adapter: {twice[0] if twice else names}"
        fix = "save one adapter: model.save_pretrained(dir, selected_adapters=[name])"
        problems.append(Problem(where=where, message=message, fix=fix))
    if problems:
        raise WeightsError(problems)
    return naming, tensors


def _kind_of(name: str) -> tuple[str, str, str]:
    """Give what a tensor is, the classic name of the weight that it belongs to, and the adapter that it names."""
    if found := _FACTOR.fullmatch(name):
        return found["factor"], to_classic(f"{found['module']}.weight"), found["adapter"] or ""
    if found := _SAVED.fullmatch(name):
        return "whole", to_classic(f"{found['module']}.{found['parameter']}"), found["adapter"]
    if found := _BASE.fullmatch(name):
        return "base", to_classic(f"{found['module']}.weight"), ""
    return "whole", to_classic(name), ""


def _read_through(header: SafetensorsHeader, advance: Callable[[int], None]) -> str:
    """Give the SHA-256 of all names, shapes and bytes. Raises WeightsError for values that are not finite."""
    digest = hashlib.sha256()
    where = printable(str(header.file))
    kinds = [f"{name} is {entry.dtype}" for name, entry in header.tensors.items() if entry.dtype not in WEIGHT_DTYPES]
    if kinds:
        what = f"tensors have a dtype other than {', '.join(WEIGHT_DTYPES)}"
        raise WeightsError(listed(where, what, kinds, MERGE_WITH_PEFT))
    broken = []
    with open_regular_file(header.file) as file:
        if file_stamp(os.fstat(file.fileno())) != header.stamp:
            raise InputChangedError(f"{header.file}: was written or replaced while it was read; start again")
        for name, entry in sorted(header.tensors.items()):
            digest.update(f"{name} {entry.dtype} {list(entry.shape)}\n".encode())
            count = 0
            for start in range(entry.start, entry.stop, PIECE_BYTES):
                piece = bytearray(min(PIECE_BYTES, entry.stop - start))
                read_into(file.fileno(), start, memoryview(piece), header.file)
                digest.update(piece)
                count += int(np.count_nonzero(~np.isfinite(_to_float32(piece, entry.dtype))))
                advance(len(piece))
            if count:
                broken.append(f"{name}: {count:,} of {entry.size // DTYPE_BYTES[entry.dtype]:,}")
    fix = "take an earlier checkpoint of the training: this one has diverged"
    if problems := listed(where, "tensors hold values that are infinite or not a number", broken, fix):
        raise WeightsError(problems)
    return digest.hexdigest()


def _to_float32(data: bytearray, dtype: str) -> NDArray[np.float32]:
    return raw_to_float32(np.frombuffer(data, _BITS[dtype]), dtype)
