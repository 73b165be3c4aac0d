"""The manifest of a sharded weights folder: what the model is, how it is cut, and where every tensor lies.

Written last and atomically: a folder without it is not a checkpoint. One JSON object (version 1):

    format, format_version   "qvl-weights", 1
    spec                     {name, config}: the model, its config in the flat HF spelling
    layout                   {tp, pp, vision_stages, text_stages}
    dtype                    BF16 | F16 | F32 | mixed
    tied, source_revision    whether embedding and head are one tensor; where the weights came from
    files                    file name -> {size, checksum or null}; rank files and, in a training checkpoint, others
    tensors                  classic name -> {shape (of the whole), dtype, parts: rank file -> checksum}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qvl_core.durable import atomic_write
from qvl_core.layout import Layout
from qvl_core.params import Parameter, parameter_table
from qvl_core.specs.hf_config import to_hf_config
from qvl_core.specs.model_spec import ModelSpec
from qvl_core.weights.safetensors_writer import WrittenFile

FORMAT = "qvl-weights"
FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """A file of the folder: bytes, and the checksum of the whole where one was taken (rank files have one a tensor)."""

    size: int
    checksum: str | None = None


@dataclass(frozen=True, kw_only=True)
class TensorRecord:
    """A tensor: the shape of the whole, and for each rank file that holds a part or a copy, that part's checksum."""

    shape: tuple[int, ...]
    dtype: str
    parts: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """See the module's docstring. `layout.dp` is always 1: data parallel ranks hold the same weights."""

    spec: ModelSpec
    layout: Layout
    dtype: str
    tied: bool
    source_revision: str
    tensors: Mapping[str, TensorRecord]
    files: Mapping[str, FileRecord] = field(default_factory=dict)


def rank_file_name(pp: int, tp: int) -> str:
    """Give the name of the weights file of one pipeline stage and tensor rank."""
    return f"rank-pp{pp:03d}-tt{tp:03d}.safetensors"


def rank_tensors(spec: ModelSpec, layout: Layout, pp: int) -> tuple[Parameter, ...]:
    """List the parameters that the ranks of a pipeline stage hold, in table order."""
    return tuple(parameter for parameter in parameter_table(spec, layout) if pp in parameter.stages)


def build_manifest(
    spec: ModelSpec,
    layout: Layout,
    written: Mapping[str, WrittenFile],
    dtypes: Mapping[str, str],
    *,
    source_revision: str,
    other_files: Mapping[str, FileRecord] | None = None,
) -> Manifest:
    """Give the manifest of rank files that were just written: `written` by file name, `dtypes` by tensor name."""
    tensors = {
        parameter.name: TensorRecord(
            shape=parameter.shape,
            dtype=dtypes[parameter.name],
            parts={
                name: written[name].checksums[parameter.name]
                for pp in parameter.stages
                for name in (rank_file_name(pp, tp) for tp in range(layout.tp))
            },
        )
        for parameter in parameter_table(spec, layout)
    }
    kinds = set(dtypes.values())
    return Manifest(
        spec=spec,
        layout=Layout(tp=layout.tp, pp=layout.pp, vision_stages=layout.vision_stages, text_stages=layout.text_stages),
        dtype=kinds.pop() if len(kinds) == 1 else "mixed",
        tied=spec.text.tie_word_embeddings,
        source_revision=source_revision,
        tensors=tensors,
        files={**{name: FileRecord(size=file.size) for name, file in written.items()}, **(other_files or {})},
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, atomically. Call it when every file it lists is on the disk."""
    text = json.dumps(manifest_to_json(manifest), indent=1, ensure_ascii=False)
    atomic_write(folder / MANIFEST_NAME, text + "\n")


def manifest_to_json(manifest: Manifest) -> dict[str, Any]:
    """Give the JSON object of a manifest."""
    layout = manifest.layout
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "spec": {"name": manifest.spec.name, "config": to_hf_config(manifest.spec)},
        "layout": {
            "tp": layout.tp,
            "pp": layout.pp,
            "vision_stages": list(layout.vision_stages),
            "text_stages": list(layout.text_stages),
        },
        "dtype": manifest.dtype,
        "tied": manifest.tied,
        "source_revision": manifest.source_revision,
        "files": {name: {"size": file.size, "checksum": file.checksum} for name, file in manifest.files.items()},
        "tensors": {
            name: {"shape": list(tensor.shape), "dtype": tensor.dtype, "parts": dict(tensor.parts)}
            for name, tensor in manifest.tensors.items()
        },
    }
