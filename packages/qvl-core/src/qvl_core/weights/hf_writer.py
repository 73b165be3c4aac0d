"""Write an HF checkpoint folder: weights in one file or in shards with an index, and everything that goes with them.

The folder appears complete or not at all. Used by `qvl convert export` and by the export at the end of training.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qvl_core.durable import copy_file, new_file, new_folder
from qvl_core.specs.load import CONFIG_NAME
from qvl_core.weights.hf_folder import INDEX_FILE, SINGLE_FILE
from qvl_core.weights.names import Naming, spell
from qvl_core.weights.safetensors_writer import TensorToWrite, WrittenFile, write_safetensors

GIB = 1024**3
DEFAULT_SHARD_BYTES = 5 * GIB

_WEIGHT_SUFFIXES = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".onnx", ".gguf", ".npz",
    ".safetensors.index.json", ".bin.index.json",
)  # fmt: skip
# Code from a checkpoint is never carried on.
_CODE_SUFFIXES = (".py", ".pyc", ".so")
# What our own sharded folders and training checkpoints hold beside the HF files.
_OWN_FILES = ("manifest.json", "state.json", "run.json", "metrics.jsonl")


def write_hf_folder(
    tensors: Iterable[TensorToWrite],
    side_files: Path,
    out: Path,
    *,
    naming: Naming = "classic",
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    config: Mapping[str, Any] | None = None,
) -> tuple[WrittenFile, ...]:
    """Write the tensors (named in either spelling) to a new folder `out`, with the side files of another folder.

    The files are planned from names and shapes; bytes are asked for one tensor after the other, each once. Tensors
    that read or make them only then (`row_reader.tensor_to_write` for those of any weights folder) are never together
    in memory. `config` replaces the content of `config.json`. `out` must not exist or be empty. A shard is larger than
    `max_shard_bytes` only if a single tensor is. Raises OutputError, RunError, and what the tensors' reading raises.
    """
    renamed = {tensor.name: tensor for tensor in _renamed(tensors, naming)}
    shards = plan_shards([(tensor.name, tensor.size) for tensor in renamed.values()], max_shard_bytes)
    with new_folder(out) as folder:
        written = [write_safetensors(folder / name, [renamed[key] for key in keys]) for name, keys in shards.items()]
        if len(shards) > 1:
            write_json(folder / INDEX_FILE, index_of(shards, sum(tensor.size for tensor in renamed.values())))
        for source in list_side_files(side_files):
            if source.name == CONFIG_NAME and config is not None:
                continue
            copy_file(source, folder / source.name)
        if config is not None:
            write_json(folder / CONFIG_NAME, config)
    return tuple(written)


def plan_shards(sizes: Sequence[tuple[str, int]], max_shard_bytes: int) -> dict[str, list[str]]:
    """Deal tensors, (name, bytes) in order, to weights files; give the names by file.

    A file is larger than `max_shard_bytes` only if a single tensor is.
    """
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes:
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    if len(shards) == 1:
        return {SINGLE_FILE: shards[0]}
    return {f"model-{i:05d}-of-{len(shards):05d}.safetensors": shard for i, shard in enumerate(shards, start=1)}


def index_of(shards: Mapping[str, Sequence[str]], total_size: int) -> dict[str, Any]:
    """Give the content of `model.safetensors.index.json`."""
    weight_map = {name: file for file, names in shards.items() for name in names}
    return {"metadata": {"total_size": total_size}, "weight_map": weight_map}


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a new JSON file as HF writes them."""
    with new_file(path) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def config_with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Give a config whose dtype, in either spelling and wherever it stands, is that of the weights (BF16, F16, F32).

    HF loads in the dtype that the config names: a wrong one would round the weights on loading.
    """
    name = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}[dtype]
    changed: dict[str, Any] = {
        key: config_with_dtype(value, dtype) if isinstance(value, Mapping) else value for key, value in config.items()
    }
    for key in ("torch_dtype", "dtype"):
        if changed.get(key) is not None:
            changed[key] = name
    return changed


def list_side_files(folder: Path) -> tuple[Path, ...]:
    """List what belongs to a checkpoint beside its weights: config, tokenizer, processor, chat template, licence.

    Regular files of the folder itself (symlinks to such files included), without weights, code and hidden files.
    """
    return tuple(path for path in sorted(folder.iterdir()) if path.is_file() and _is_side_file(path.name))


def _is_side_file(name: str) -> bool:
    if name.startswith(".") or name in _OWN_FILES:
        return False
    return not name.lower().endswith(_WEIGHT_SUFFIXES + _CODE_SUFFIXES)


def _renamed(tensors: Iterable[TensorToWrite], naming: Naming) -> Iterator[TensorToWrite]:
    for tensor in tensors:
        yield TensorToWrite(
            name=spell(tensor.name, naming), dtype=tensor.dtype, shape=tensor.shape, chunks=tensor.chunks
        )
