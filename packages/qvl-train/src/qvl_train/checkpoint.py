"""Training checkpoints: a sharded weights folder plus optimizer state and `state.json`, complete or not there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qvl_core.durable import copy_file, new_file, new_folder, remove_folder
from qvl_core.errors import OutputError, Problem, WeightsError
from qvl_core.layout import Layout
from qvl_core.specs.model_spec import ModelSpec
from qvl_core.weights.hf_writer import list_side_files
from qvl_core.weights.local_tensors import local_optimizer_tensors, local_values
from qvl_core.weights.manifest import MANIFEST_NAME, FileRecord, build_manifest, rank_file_name, write_manifest
from qvl_core.weights.optimizer_state import optimizer_file_name
from qvl_core.weights.safetensors_writer import TensorToWrite, checksum_of_file, write_safetensors
from qvl_core.weights.sharded_folder import ShardedFolder, open_sharded_folder, verify_checksums
from qvl_core.weights.source import STATE_NAME
from qvl_core.weights.tensor_io import raw_to_float32, tensor_from_array
from qvl_core.weights.whole_tensors import whole_tensors_of

STATE_FORMAT = 1
_NAME = re.compile(r"step_(\d{6,})")

NamedArrays = Iterable[tuple[str, NDArray[Any]]]


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """What a run has to know beside weights and moments to go on; randomness follows from seed and sample count."""

    step: int
    consumed_samples: int
    run_id: str
    has_optimizer: bool
    format: int = STATE_FORMAT


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint on the disk, of any layout; sizes, headers and checksums have been compared."""

    folder: ShardedFolder
    state: TrainingState


def checkpoint_path(run: Path, step: int) -> Path:
    """Give the folder of the checkpoint after `step`."""
    return run / f"step_{step:06d}"


def save_checkpoint(
    run: Path,
    state: TrainingState,
    weights: NamedArrays,
    optimizer: NamedArrays | None,
    *,
    spec: ModelSpec,
    side_files: Path,
    source_revision: str,
) -> Path:
    """Write `step_NNNNNN`, all of it or nothing, and give its path. Raises OutputError or RunError (disk full).

    A folder of the same step, left by a continuation from an older checkpoint, is replaced.
    """
    target = checkpoint_path(run, state.step)
    if target.exists():
        remove_folder(target)
    with new_folder(target) as folder:
        tensors = {rank_file_name(0, 0): [to_write(*pair) for pair in weights]}
        if optimizer is not None:
            tensors[optimizer_file_name(0, 0)] = [to_write(*pair) for pair in optimizer]
        written = {name: write_safetensors(folder / name, found) for name, found in tensors.items()}
        dtypes = {name: {tensor.name: tensor.dtype for tensor in found} for name, found in tensors.items()}
        with new_file(folder / STATE_NAME) as file:
            file.write((json.dumps(asdict(state), indent=1) + "\n").encode())
        for source in list_side_files(side_files):
            copy_file(source, folder / source.name)
        manifest = build_manifest(
            spec,
            Layout.single(spec),
            written,
            dtypes[rank_file_name(0, 0)],
            source_revision=source_revision,
            optimizer_dtypes=dtypes.get(optimizer_file_name(0, 0)),
            other_files={STATE_NAME: _record(folder / STATE_NAME)},
        )
        write_manifest(folder, manifest)
    return target


def list_steps(run: Path) -> list[tuple[int, Path]]:
    """List (step, folder) of everything named like a checkpoint, newest step first; nothing is opened."""
    if not run.is_dir():
        return []
    found = [(int(match[1]), path) for path in run.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted(found, reverse=True)


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint to continue from; contents are compared with their checksums. Raises WeightsError."""
    folder = open_sharded_folder(path)
    for pp, tp in folder.ranks:
        verify_checksums(folder, pp, tp)
    state = _read_state(path)
    for name, record in folder.manifest.files.items():
        if record.checksum is not None and checksum_of_file(path / name) != record.checksum:
            raise WeightsError(_damaged(path / name, "is not what its checksum says"))
    if not state.has_optimizer:
        message = "holds weights only (train.save.optimizer = false), so the run cannot go on from it as it was"
        fix = f'start a new run from its weights: --set weights.source="{path}" --set output.dir=runs/another_name'
        raise WeightsError(Problem(where=str(path), message=message, fix=fix))
    if not folder.manifest.has_optimizer:
        message = f"lists no optimizer files, but {STATE_NAME} says that there is optimizer state"
        raise WeightsError(_damaged(path / MANIFEST_NAME, message))
    return Checkpoint(folder=folder, state=state)


def newest_checkpoint(run: Path) -> tuple[Checkpoint | None, list[str]]:
    """Open the newest usable checkpoint of a run; also say what was wrong with newer ones that were passed over."""
    passed_over: list[str] = []
    for _, path in list_steps(run):
        try:
            return open_checkpoint(path), passed_over
        except WeightsError as error:
            passed_over.append(str(error))
    return None, passed_over


def read_weights(checkpoint: Checkpoint) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield (name, fp32 array) of every parameter, whole, whatever the checkpoint's layout."""
    source = whole_tensors_of(checkpoint.folder)
    return local_values(source, Layout.single(source.spec), 0, 0)


def read_optimizer(checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.float32]]:
    """Read the optimizer state, which must be exactly the tensors in `shapes`. Raises WeightsError naming the first."""
    source, records = whole_tensors_of(checkpoint.folder), checkpoint.folder.manifest.optimizer
    for name in sorted(shapes.keys() | records.keys()):
        found = records[name].shape if name in records else None
        if found != shapes.get(name):
            message = f"{name} has shape {found or 'none'}, this run needs {shapes.get(name, 'none')}"
            raise WeightsError(_damaged(checkpoint.folder.path / MANIFEST_NAME, message))
    tensors = local_optimizer_tensors(source, Layout.single(source.spec), 0, 0)
    return {tensor.name: raw_to_float32(tensor.array, tensor.dtype) for tensor in tensors}


def prune(run: Path, keep: int) -> list[Path]:
    """Remove all but the newest `keep` checkpoints (0 keeps all); give what was removed."""
    removed = [path for _, path in list_steps(run)[keep:]] if keep else []
    for path in removed:
        remove_folder(path)
    return removed


def _read_state(path: Path) -> TrainingState:
    file = path / STATE_NAME
    try:
        state = TrainingState(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(_damaged(file, f"cannot be read: {error}")) from error
    if state.format != STATE_FORMAT:
        raise WeightsError(_damaged(file, f"has format {state.format}; this version reads {STATE_FORMAT}"))
    return state


def _damaged(where: Path, message: str) -> Problem:
    fix = "continue from an older checkpoint: --resume with its folder"
    return Problem(where=str(where), message=message, fix=fix)


def to_write(name: str, array: NDArray[Any]) -> TensorToWrite:
    """Give an array of the model, of any of its dtypes, as a tensor for a file."""
    # MindSpore's own numpy bfloat16 is unknown to everyone else: hand over its bits.
    if array.dtype.name == "bfloat16":
        return tensor_from_array(name, array.view(np.uint16), "BF16")
    return tensor_from_array(name, array)


def _record(path: Path) -> FileRecord:
    return FileRecord(size=path.stat().st_size, checksum=checksum_of_file(path))


def requested_checkpoint(run: Path, requested: Path) -> Checkpoint:
    """Open the checkpoint that `--resume DIR` names; it has to lie in this run's folder. Raises InputError."""
    if requested.resolve().parent != run.resolve():
        message = f"--resume names a checkpoint outside this run's folder {run}"
        fix = f'start a new run from its weights: --set weights.source="{requested}"'
        raise OutputError(Problem(where=str(requested), message=message, fix=fix))
    return open_checkpoint(requested)
