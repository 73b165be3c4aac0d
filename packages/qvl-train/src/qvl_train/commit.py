"""What makes the files of all ranks a checkpoint: compare, complete, name. The first rank does it, without the others.

The order is the promise. Files are on the disk before the manifest, the manifest and the folder's entries before the
folder has its name, the name before anybody hears of it, and old checkpoints are removed only then: whenever the power
fails, what is named like a checkpoint is a complete one, and there is one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from qvl_core import disk
from qvl_core.durable import copy_file, explained, new_file, remove_folder
from qvl_core.errors import OutputError, Problem, RunError
from qvl_core.layout import Layout
from qvl_core.lora_table import Lora
from qvl_core.parallel.mesh import coordinate_of
from qvl_core.specs.model_spec import ModelSpec
from qvl_core.weights.hf_writer import list_side_files
from qvl_core.weights.manifest import FileRecord, build_manifest, rank_tensors, write_manifest
from qvl_core.weights.safetensors_writer import WrittenFile, checksum_of_file
from qvl_core.weights.source import STATE_NAME

from qvl_train.checkpoint import TrainingState
from qvl_train.rank_files import ONE_FILE_SYSTEM

if TYPE_CHECKING:
    from qvl_core.parallel.world import Json


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What every checkpoint of a run says of the model, and where its side files come from."""

    spec: ModelSpec
    side_files: Path
    source_revision: str
    lora: Lora | None = None


def commit(
    folder: Path,
    target: Path,
    state: TrainingState,
    layout: Layout,
    origin: Origin,
    *,
    written: Sequence[dict[str, Json]],
    read_back: Sequence[dict[str, Json]],
) -> None:
    """Complete the temporary folder that all ranks have written to, and give it its name.

    `written` has what each rank tells of its files, in rank order, `read_back` the same of checksums. A checkpoint of
    that name, left by a continuation from an older one, is replaced. Raises RunError where copies of a weight differ,
    OutputError or DiskError.
    """
    require_equal_copies(written, layout, origin, state.step)
    files = _merged([*written, *read_back])
    _require_shared(folder, files)
    with new_file(folder / STATE_NAME) as file:
        file.write((json.dumps(asdict(state), indent=1) + "\n").encode())
    for source in list_side_files(origin.side_files):
        copy_file(source, folder / source.name)
    # Last, and with it the names of all files before it.
    _write_manifest(folder, files, layout, origin)
    if os.path.lexists(target):
        remove_folder(target)
    with explained(target):
        disk.rename(folder, target)
        disk.sync_folder(target.parent)


def require_equal_copies(told: Sequence[dict[str, Json]], layout: Layout, origin: Origin, step: int) -> None:
    """Raise RunError naming the first weight that differs between ranks that must hold the same: silent divergence."""
    first: dict[tuple[str, int], tuple[int, Json]] = {}
    for rank, message in enumerate(told):
        place, digests = coordinate_of(rank, layout), cast("dict[str, Json]", message["digests"])
        for row in rank_tensors(origin.spec, layout, place.pp, origin.lora) if layout.world_size > 1 else ():
            key = (row.name, 0 if row.shard == "replicate" else place.tp)
            other, wanted = first.setdefault(key, (rank, digests[row.name]))
            if digests[row.name] != wanted:
                raise RunError(
                    f"{row.name} should be the same on ranks {other} and {rank}, and is not after step {step}: the "
                    "copies have drifted apart, and nothing was saved of this step\n"
                    "fix: check the devices (memory errors, different software on different machines); the same "
                    "command goes on from the last checkpoint"
                )


@dataclass(kw_only=True)
class _File:
    """A file as its writers tell of it: by `rank`, the first of them."""

    rank: int
    size: int
    checksums: dict[str, str]
    dtypes: dict[str, str]


def _merged(told: Sequence[dict[str, Json]]) -> dict[str, _File]:
    """Put together what all tell; the replicas that wrote one file have different checksums of it."""
    files: dict[str, _File] = {}
    for rank, message in enumerate(told):
        for record in cast("list[dict[str, Any]]", message["files"]):
            name = record["name"]
            if name not in files:
                files[name] = _File(rank=rank, size=record["size"], checksums={}, dtypes=record["dtypes"])
            files[name].checksums.update(record["checksums"])
    return files


def _require_shared(folder: Path, files: dict[str, _File]) -> None:
    """Raise OutputError where a rank has written a file to a place that is not this rank's."""
    for name, file in files.items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else None
        if found != file.size:
            there = "is not there" if found is None else f"has {found:,} bytes instead of {file.size:,}"
            message = f"{name}, written by rank {file.rank}, {there} for rank 0: {ONE_FILE_SYSTEM}"
            raise OutputError(Problem(where=str(folder.parent), key="output.dir", message=message))


def _write_manifest(folder: Path, files: dict[str, _File], layout: Layout, origin: Origin) -> None:
    dtypes: dict[str, str] = {}
    optimizer_dtypes: dict[str, str] | None = None
    for name, file in files.items():
        if name.startswith("rank-"):
            dtypes.update(file.dtypes)
        else:
            optimizer_dtypes = {**(optimizer_dtypes or {}), **file.dtypes}
    state = folder / STATE_NAME
    manifest = build_manifest(
        origin.spec,
        layout,
        {
            name: WrittenFile(file=folder / name, size=file.size, checksums=file.checksums)
            for name, file in files.items()
        },
        dtypes,
        source_revision=origin.source_revision,
        optimizer_dtypes=optimizer_dtypes,
        other_files={STATE_NAME: FileRecord(size=state.stat().st_size, checksum=checksum_of_file(state))},
        lora=origin.lora,
    )
    write_manifest(folder, manifest)
