"""Adapters in PEFT's format, for small models, with random factors. The tests of qvl-convert use it as well."""

import json
from dataclasses import replace

import numpy as np
import pytest
from qvl_core.params import parameter_table
from qvl_core.specs import to_hf_config
from qvl_core.weights.hf_writer import write_hf_folder
from qvl_core.weights.lora import merge_transforms, open_adapter
from qvl_core.weights.names import spell
from qvl_core.weights.safetensors_writer import write_safetensors
from qvl_core.weights.tensor_io import raw_to_float32, tensor_from_array
from sharded_folders import divisible_spec

_DIVISIBLE = divisible_spec(tied=False)
# Grouped queries: a weight of the keys is not of the size of one of the queries.
SPEC = replace(_DIVISIBLE, text=replace(_DIVISIBLE.text, num_kv_heads=2))


class Lab:
    """Writes adapters and bases, and merges them through arrays."""

    spec = SPEC
    tied = replace(SPEC, text=replace(SPEC.text, tie_word_embeddings=True))
    shapes = {row.name: row.shape for row in parameter_table(SPEC)}  # noqa: RUF012

    def __init__(self, root):
        self.root = root
        self.random = np.random.default_rng(3)

    def normal(self, *shape):
        return self.random.standard_normal(shape).astype(np.float32)

    def factors(self, names, rank=4, naming="new", segment=""):
        """The tensors that PEFT saves for these weights, by its keys."""
        found = {}
        for name in names:
            out, *rest = self.shapes[name]
            module = f"base_model.model.{spell(name, naming).removesuffix('.weight')}"
            found[f"{module}.lora_A{segment}.weight"] = self.normal(rank, *rest)
            found[f"{module}.lora_B{segment}.weight"] = self.normal(out, rank, *(1 for _ in rest[1:]))
        return found

    def names(self, *ends, start=""):
        return [name for name in self.shapes if name.startswith(start) and name.endswith(tuple(ends))]

    def folder(self, tensors, dtype="F32", name="adapter", **config):
        folder = self.root / name
        folder.mkdir()
        fields = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], **config}
        (folder / "adapter_config.json").write_text(json.dumps(fields))
        write_safetensors(
            folder / "adapter_model.safetensors",
            [
                tensor_from_array(key, array, None if array.dtype != np.float32 else dtype)
                for key, array in tensors.items()
            ],
        )
        return folder

    def transforms(self, folder, dtype="F32", spec=None):
        spec = spec or self.spec
        return merge_transforms(open_adapter(folder), spec, {row.name: dtype for row in parameter_table(spec)})

    def base(self, name, dtype="F32"):
        """Random values of a tensor, as an array of raw bits."""
        values = self.normal(*self.shapes[name])
        return (
            values
            if dtype == "F32"
            else values.astype(np.float16)
            if dtype == "F16"
            else (values.view(np.uint32) >> 16).astype(np.uint16)
        )

    def base_folder(self, dtype="BF16"):
        side = self.root / "side"
        side.mkdir()
        (side / "config.json").write_text(json.dumps(to_hf_config(self.spec)))
        tensors = [tensor_from_array(name, self.base(name, dtype), dtype) for name in self.shapes]
        write_hf_folder(tensors, side, self.root / "base")
        return self.root / "base"


def apply(transform, bits, rows_per_block=None):
    """Merge an array of raw bits block by block."""
    rows = bits.shape[0]
    data = np.ascontiguousarray(bits).view(np.uint8).reshape(rows, -1)
    step = rows_per_block or rows
    blocks = [transform(first, data[first : first + step]) for first in range(0, rows, step)]
    return np.concatenate(blocks).reshape(-1).view(bits.dtype).reshape(bits.shape)


def values_of(bits, dtype):
    return raw_to_float32(bits, dtype)


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    lab.apply, lab.values_of = apply, values_of
    return lab
