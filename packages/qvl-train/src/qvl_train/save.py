"""Write a training checkpoint from all ranks at once: complete or not there.

Every pipeline stage and tensor rank of the first replica writes its own files into a temporary folder, the first rank
collects what they wrote, adds the manifest and gives the folder its name. The folder has to be on a file system that
all ranks share. An error on any rank is raised on all, and leaves nothing behind.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from qvl_core.durable import copy_file, new_file, new_folder, remove_folder
from qvl_core.errors import OutputError, Problem, RunError
from qvl_core.lora_table import Lora
from qvl_core.parallel.mesh import coordinate_of
from qvl_core.params import Parameter
from qvl_core.specs.model_spec import ModelSpec
from qvl_core.weights.hf_writer import list_side_files
from qvl_core.weights.manifest import FileRecord, build_manifest, rank_file_name, rank_tensors, write_manifest
from qvl_core.weights.optimizer_state import optimizer_file_name
from qvl_core.weights.safetensors_writer import (
    TensorToWrite,
    WrittenFile,
    checksum_of_file,
    write_safetensors,
)
from qvl_core.weights.source import STATE_NAME

from qvl_train.agreement import together
from qvl_train.checkpoint import TrainingState, checkpoint_path
from qvl_train.stored_tensor import StoredTensor

if TYPE_CHECKING:
    from qvl_core.parallel.world import Json, World


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a rank puts into a checkpoint: its parts of weights and optimizer state, which is None where not wanted."""

    weights: Sequence[StoredTensor]
    optimizer: Sequence[StoredTensor] | None


def save_checkpoint(
    world: World,
    run: Path,
    state: TrainingState,
    contents: Contents,
    *,
    spec: ModelSpec,
    side_files: Path,
    source_revision: str,
    lora: Lora | None = None,
) -> Path:
    """Write `step_NNNNNN`, all of it or nothing, and give its path; all ranks call it.

    A folder of the same step, left by a continuation from an older checkpoint, is replaced. Raises RunError where
    copies of a weight are not equal, OutputError or RunError (disk full), the same on every rank.
    """
    target = checkpoint_path(run, state.step)
    rows = [rank_tensors(spec, world.layout, pp, lora) for pp in range(world.layout.pp)]
    _require_equal_copies(world, rows, contents.weights, state.step)
    with _shared_folder(world, target) as folder:
        files = together(world, lambda: _write_rank(world, folder, contents))

        def complete() -> None:
            if world.rank != 0:
                return
            with new_file(folder / STATE_NAME) as file:
                file.write((json.dumps(asdict(state), indent=1) + "\n").encode())
            for source in list_side_files(side_files):
                copy_file(source, folder / source.name)
            _write_manifest(world, folder, files, spec, source_revision, lora)

        together(world, complete)
    return target


@contextmanager
def _shared_folder(world: World, target: Path) -> Iterator[Path]:
    """Give all ranks the first rank's temporary folder, which becomes `target` when the block ends without an error."""
    with ExitStack() as stack:

        def make() -> str:
            if world.rank != 0:
                return ""
            if target.exists():
                remove_folder(target)
            return str(stack.enter_context(new_folder(target)))

        folder = Path(str(together(world, make)[0]))
        yield folder
        together(world, stack.close)


def _write_rank(world: World, folder: Path, contents: Contents) -> Json:
    """Write this rank's files and give what a manifest says of them; other replicas only help to gather."""
    place, optimizer = world.place, list(contents.optimizer or ())
    if place.dp != 0:
        for tensor in optimizer:
            tensor.read()
        return []
    unread = list(optimizer)

    def in_turn(tensor: StoredTensor) -> TensorToWrite:
        written = tensor.to_write()

        def chunks() -> Iterator[bytes | memoryview]:
            assert unread.pop(0) is tensor, f"{tensor.name} is not the next that the replicas gather"
            yield from written.chunks()

        return TensorToWrite(name=tensor.name, dtype=tensor.dtype, shape=tensor.shape, chunks=chunks)

    try:
        if not folder.is_dir():
            message = f"is not there for rank {world.rank}: all machines of a run need one shared file system for it"
            raise OutputError(Problem(where=str(folder.parent), key="output.dir", message=message))
        written = [_write(folder / rank_file_name(place.pp, place.tp), contents.weights)]
        if contents.optimizer is not None:
            name = optimizer_file_name(place.pp, place.tp)
            written.append(_write(folder / name, optimizer, [in_turn(tensor) for tensor in optimizer]))
    except Exception:
        # The other replicas are waiting for us to gather the rest; nobody may leave them there.
        for tensor in unread:
            tensor.read()
        raise
    return written


def _write(
    path: Path, stored: Sequence[StoredTensor], tensors: Sequence[TensorToWrite] | None = None
) -> dict[str, Json]:
    written = write_safetensors(path, tensors if tensors is not None else [tensor.to_write() for tensor in stored])
    return {
        "name": path.name,
        "size": written.size,
        "checksums": dict(written.checksums),
        "dtypes": {tensor.name: tensor.dtype for tensor in stored},
    }


def _write_manifest(
    world: World, folder: Path, files: list[Json], spec: ModelSpec, source_revision: str, lora: Lora | None
) -> None:
    records = [cast("dict[str, Any]", file) for of_rank in files for file in cast("list[Json]", of_rank)]
    written = {
        record["name"]: WrittenFile(file=folder / record["name"], size=record["size"], checksums=record["checksums"])
        for record in records
    }
    dtypes: dict[str, str] = {}
    optimizer_dtypes: dict[str, str] | None = None
    for record in records:
        if record["name"].startswith("rank-"):
            dtypes.update(record["dtypes"])
        else:
            optimizer_dtypes = {**(optimizer_dtypes or {}), **record["dtypes"]}
    state = folder / STATE_NAME
    manifest = build_manifest(
        spec,
        world.layout,
        written,
        dtypes,
        source_revision=source_revision,
        optimizer_dtypes=optimizer_dtypes,
        other_files={STATE_NAME: FileRecord(size=state.stat().st_size, checksum=checksum_of_file(state))},
        lora=lora,
    )
    write_manifest(folder, manifest)


def _require_equal_copies(
    world: World, rows: Sequence[Sequence[Parameter]], weights: Sequence[StoredTensor], step: int
) -> None:
    """Raise RunError naming the first weight that differs between ranks that must hold the same: silent divergence.

    `rows` are those of each pipeline stage.
    """
    if world.layout.world_size == 1:
        return
    digests = together(world, lambda: {tensor.name: zlib.crc32(_bytes(tensor)) for tensor in weights})
    first: dict[tuple[str, int], tuple[int, Any]] = {}
    for rank, found in enumerate(digests):
        place = coordinate_of(rank, world.layout)
        for row in rows[place.pp]:
            digest = cast("dict[str, Any]", found)[row.name]
            key = (row.name, 0 if row.shard == "replicate" else place.tp)
            other, wanted = first.setdefault(key, (rank, digest))
            if digest != wanted:
                raise RunError(
                    f"{row.name} should be the same on ranks {other} and {rank}, and is not after step {step}: the "
                    "copies have drifted apart, and nothing was saved of this step\n"
                    "fix: check the devices (memory errors, different software on different machines); the same "
                    "command goes on from the last checkpoint"
                )


def _bytes(tensor: StoredTensor) -> memoryview:
    return np.ascontiguousarray(tensor.bits()).reshape(-1).view(np.uint8).data
