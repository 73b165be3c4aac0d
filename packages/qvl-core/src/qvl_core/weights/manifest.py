"""The manifest of a sharded weights folder: what the model is, how it is cut, and where every tensor lies.

Written last and atomically: a folder without it is not a checkpoint. One JSON object (version 1, or 2 with `lora`):

    format, format_version   "qvl-weights", 1 or 2
    spec                     {name, config}: the model, its config in the flat HF spelling
    layout                   {tp, pp, vision_stages, text_stages}
    dtype                    BF16 | F16 | F32 | mixed
    tied, source_revision    whether embedding and head are one tensor; where the weights came from
    files                    file name -> {size, checksum or null}; rank files and, in a training checkpoint, others
    tensors                  classic name -> {shape (of the whole), dtype, parts: rank file -> checksum}
    optimizer                there if and only if optimizer files are listed, one for each rank file:
                             "<parameter>.<kind>" -> the same for its optimizer files, see optimizer_state.py
    lora                     only where the folder holds adapters and nothing of the base, whose fingerprint is then
                             source_revision: {rank, alpha, dropout, components, targets}, see lora_table.py
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qvl_core.durable import atomic_write
from qvl_core.layout import Layout
from qvl_core.lora_table import Lora, weight_table
from qvl_core.params import Parameter
from qvl_core.specs.hf_config import to_hf_config
from qvl_core.specs.model_spec import ModelSpec
from qvl_core.weights.optimizer_state import optimizer_file_name, split_name
from qvl_core.weights.safetensors_writer import WrittenFile

FORMAT = "qvl-weights"
FORMAT_VERSION = 2
# What is written where nothing in the folder needs a newer one: readers of that version are to read it.
PLAIN_FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """A file of the folder: bytes, and the checksum of the whole where one was taken.

    Rank and optimizer files have none: each of their tensors has its own.
    """

    size: int
    checksum: str | None = None


@dataclass(frozen=True, kw_only=True)
class TensorRecord:
    """A tensor: the shape of the whole, and for each file that holds a part or a copy, that part's checksum."""

    shape: tuple[int, ...]
    dtype: str
    parts: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """See the module's docstring. `layout.dp` is always 1: data parallel ranks hold the same weights.

    With `lora` the tensors are those of the adapter table, not of the parameter table.
    """

    spec: ModelSpec
    layout: Layout
    dtype: str
    tied: bool
    source_revision: str
    tensors: Mapping[str, TensorRecord]
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    optimizer: Mapping[str, TensorRecord] = field(default_factory=dict)
    lora: Lora | None = None

    @property
    def has_optimizer(self) -> bool:
        """Whether there is optimizer state; with everything frozen it has files, and no tensor in them."""
        return optimizer_file_name(0, 0) in self.files


def rank_file_name(pp: int, tp: int) -> str:
    """Give the name of the weights file of one pipeline stage and tensor rank."""
    return f"rank-pp{pp:03d}-tt{tp:03d}.safetensors"


def rank_tensors(spec: ModelSpec, layout: Layout, pp: int, lora: Lora | None = None) -> tuple[Parameter, ...]:
    """List the parameters, or the adapters' factors, that the ranks of a pipeline stage hold, in table order."""
    return tuple(parameter for parameter in weight_table(spec, lora, layout) if pp in parameter.stages)


def build_manifest(
    spec: ModelSpec,
    layout: Layout,
    written: Mapping[str, WrittenFile],
    dtypes: Mapping[str, str],
    *,
    source_revision: str,
    optimizer_dtypes: Mapping[str, str] | None = None,
    other_files: Mapping[str, FileRecord] | None = None,
    lora: Lora | None = None,
) -> Manifest:
    """Give the manifest of files that were just written.

    `written` has every rank file, and every optimizer file if there are any, by file name. `dtypes` are by tensor name,
    `optimizer_dtypes` by name of the optimizer's tensors; None means that there is no optimizer state.
    """
    table = {parameter.name: parameter for parameter in weight_table(spec, lora, layout)}

    def record(name: str, parameter: Parameter, dtype: str, file_name: Callable[[int, int], str]) -> TensorRecord:
        homes = [file_name(pp, tp) for pp in parameter.stages for tp in range(layout.tp)]
        parts = {home: written[home].checksums[name] for home in homes}
        return TensorRecord(shape=parameter.shape, dtype=dtype, parts=parts)

    optimizer = {
        name: record(name, table[split_name(name)[0]], dtype, optimizer_file_name)
        for name, dtype in (optimizer_dtypes or {}).items()
    }
    file_names = [rank_file_name, *([optimizer_file_name] if optimizer_dtypes is not None else [])]
    files = [name(pp, tp) for name in file_names for pp in range(layout.pp) for tp in range(layout.tp)]
    kinds = {dtypes[name] for name in table}
    return Manifest(
        spec=spec,
        layout=Layout(tp=layout.tp, pp=layout.pp, vision_stages=layout.vision_stages, text_stages=layout.text_stages),
        dtype=kinds.pop() if len(kinds) == 1 else "mixed",
        tied=spec.text.tie_word_embeddings,
        source_revision=source_revision,
        tensors={name: record(name, parameter, dtypes[name], rank_file_name) for name, parameter in table.items()},
        files={**{name: FileRecord(size=written[name].size) for name in files}, **(other_files or {})},
        optimizer=optimizer,
        lora=lora,
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, atomically. Call it when every file it lists is on the disk."""
    text = json.dumps(manifest_to_json(manifest), indent=1, ensure_ascii=False)
    atomic_write(folder / MANIFEST_NAME, text + "\n")


def manifest_to_json(manifest: Manifest) -> dict[str, Any]:
    """Give the JSON object of a manifest."""
    value: dict[str, Any] = {
        "format": FORMAT,
        "format_version": PLAIN_FORMAT_VERSION if manifest.lora is None else FORMAT_VERSION,
        "spec": {"name": manifest.spec.name, "config": to_hf_config(manifest.spec)},
        "layout": layout_to_json(manifest.layout),
        "dtype": manifest.dtype,
        "tied": manifest.tied,
        "source_revision": manifest.source_revision,
        "files": {name: {"size": file.size, "checksum": file.checksum} for name, file in manifest.files.items()},
        "tensors": _table_to_json(manifest.tensors),
    }
    if manifest.has_optimizer:
        value["optimizer"] = _table_to_json(manifest.optimizer)
    if manifest.lora is not None:
        value["lora"] = lora_to_json(manifest.lora)
    return value


def layout_to_json(layout: Layout) -> dict[str, Any]:
    """Give the JSON object of a layout. It has no `dp`: data parallel ranks hold the same weights."""
    return {
        "tp": layout.tp,
        "pp": layout.pp,
        "vision_stages": list(layout.vision_stages),
        "text_stages": list(layout.text_stages),
    }


def lora_to_json(lora: Lora) -> dict[str, Any]:
    """Give the JSON object of adapters' settings."""
    return {**asdict(lora), "components": list(lora.components), "targets": list(lora.targets)}


def _table_to_json(tensors: Mapping[str, TensorRecord]) -> dict[str, Any]:
    return {
        name: {"shape": list(tensor.shape), "dtype": tensor.dtype, "parts": dict(tensor.parts)}
        for name, tensor in tensors.items()
    }
