"""Training checkpoints on the disk: a sharded weights folder plus optimizer state and `state.json`; how they are read.

`save` writes them. A run reads one in its own layout, whatever layout the checkpoint has.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from qvl_core import disk
from qvl_core.durable import explained, remove_folder
from qvl_core.errors import OutputError, Problem, WeightsError
from qvl_core.layout import Layout
from qvl_core.lora_table import weight_table
from qvl_core.parallel.mesh import Coordinate
from qvl_core.weights.local_tensors import local_optimizer_tensors, local_values
from qvl_core.weights.manifest import MANIFEST_NAME
from qvl_core.weights.optimizer_state import split_name
from qvl_core.weights.safetensors_writer import checksum_of_file
from qvl_core.weights.sharded_folder import ShardedFolder, open_sharded_folder, verify_checksums
from qvl_core.weights.source import STATE_NAME
from qvl_core.weights.tensor_io import raw_to_float32
from qvl_core.weights.whole_tensors import whole_tensors_of

STATE_FORMAT = 1
ASIDE_MARK = ".set-aside-"
RANDOMNESS = "from the seed and consumed_samples; no generator has a state of its own"
_NAME = re.compile(r"step_(\d{6,})")


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """What a run has to know beside weights and moments to go on. `data_hash` is that of the samples it draws from.

    No generator's state is kept: sample order, held-out split and dropout follow from `seed` and the sample count, as
    `randomness` says in the file.
    """

    step: int
    consumed_samples: int
    run_id: str
    has_optimizer: bool
    data_hash: str = ""
    seed: int | None = None
    randomness: str = RANDOMNESS
    format: int = STATE_FORMAT


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint on the disk, of any layout; sizes, headers and checksums have been compared."""

    folder: ShardedFolder
    state: TrainingState


def checkpoint_path(run: Path, step: int) -> Path:
    """Give the folder of the checkpoint after `step`."""
    return run / f"step_{step:06d}"


def list_steps(run: Path) -> list[tuple[int, Path]]:
    """List (step, folder) of all folders named like a checkpoint, newest step first; nothing is opened."""
    if not run.is_dir():
        return []
    named = [(int(match[1]), path) for path in run.iterdir() if (match := _NAME.fullmatch(path.name))]
    found = [(step, path) for step, path in named if path.is_dir()]
    return sorted(found, reverse=True)


def open_checkpoint(path: Path, *, part: int = 0, parts: int = 1) -> Checkpoint:
    """Open a checkpoint to continue from; contents are compared with their checksums. Raises WeightsError.

    Of `parts` callers, each compares the files of every `parts`-th rank, so that together they compare all.
    """
    folder = open_sharded_folder(path)
    for number, (pp, tp) in enumerate(folder.ranks):
        if number % parts == part:
            verify_checksums(folder, pp, tp)
    state = _read_state(path)
    for name, record in folder.manifest.files.items():
        if record.checksum is not None and checksum_of_file(path / name) != record.checksum:
            raise WeightsError(_damaged(path / name, "is not what its checksum says"))
    if (match := _NAME.fullmatch(path.name)) and state.step != int(match[1]):
        raise WeightsError(_damaged(path / STATE_NAME, f"is that of step {state.step}"))
    if not state.has_optimizer:
        message = "holds weights only (train.save.optimizer = false), so the run cannot go on from it as it was"
        fix = f'start a new run from its weights: --set weights.source="{path}" --set output.dir=runs/another_name'
        raise WeightsError(Problem(where=str(path), message=message, fix=fix))
    if not folder.manifest.has_optimizer:
        message = f"lists no optimizer files, but {STATE_NAME} says that there is optimizer state"
        raise WeightsError(_damaged(path / MANIFEST_NAME, message))
    return Checkpoint(folder=folder, state=state)


def check_requested(run: Path, requested: Path) -> None:
    """Raise InputError unless `--resume DIR` names a checkpoint of this run; its contents are not compared yet.

    Where it cannot be used, the error names the nearest one that can.
    """
    if requested.resolve().parent != run.resolve():
        message = f"--resume names a checkpoint outside this run's folder {run}"
        fix = f'start a new run from its weights: --set weights.source="{requested}"'
        raise OutputError(Problem(where=str(requested), message=message, fix=fix))
    if _NAME.fullmatch(requested.resolve().name) is None:
        message, fix = "is not named like a checkpoint", f"a folder such as {run}/step_000500"
        raise OutputError(Problem(where=str(requested), key="--resume", message=message, fix=fix))
    with naming_nearest(run, requested):
        open_sharded_folder(requested)


@contextmanager
def naming_nearest(run: Path, requested: Path) -> Iterator[None]:
    """Let a WeightsError about a requested checkpoint name the nearest one that is complete and undamaged."""
    try:
        yield
    except WeightsError as error:
        nearest = _nearest_usable(run, step_of(requested))
        if nearest is not None:
            fix = f"the nearest checkpoint that can be used: --resume {nearest}"
        else:
            fix = "none of this run can be used: start again in another folder: --set output.dir=runs/another_name"
        raise WeightsError([replace(problem, fix=fix) for problem in error.problems]) from error


def _nearest_usable(run: Path, wanted: int) -> Path | None:
    others = [(abs(step - wanted), path) for step, path in list_steps(run) if step != wanted]
    for _, path in sorted(others, key=lambda other: other[0]):
        with suppress(WeightsError):
            open_checkpoint(path)
            return path
    return None


def read_weights(
    checkpoint: Checkpoint, layout: Layout, place: Coordinate
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield (name, fp32 array) of a rank's part of every parameter, or factor, whatever the checkpoint's layout."""
    return local_values(whole_tensors_of(checkpoint.folder), layout, place.pp, place.tp)


def read_optimizer(
    checkpoint: Checkpoint, layout: Layout, place: Coordinate, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield (name, fp32 array) of a rank's optimizer state, which must be exactly the tensors in `shapes`.

    Raises WeightsError naming the first that differs, before anything is read.
    """
    source = whole_tensors_of(checkpoint.folder)
    rows = {row.name: row for row in weight_table(source.spec, source.lora, layout)}
    owners = {name: rows[split_name(name)[0]] for name in checkpoint.folder.manifest.optimizer}
    found = {name: row.local_shape(layout.tp) for name, row in owners.items() if place.pp in row.stages}
    for name in sorted(shapes.keys() | found.keys()):
        if found.get(name) != shapes.get(name):
            message = f"{name} has shape {found.get(name, 'none')}, this run needs {shapes.get(name, 'none')}"
            raise WeightsError(_damaged(checkpoint.folder.path / MANIFEST_NAME, message))
    for tensor in local_optimizer_tensors(source, layout, place.pp, place.tp):
        yield tensor.name, raw_to_float32(tensor.array, tensor.dtype)


def prune(run: Path, keep: int, *, newest: int | None = None) -> list[Path]:
    """Remove all but the newest `keep` checkpoints (0 keeps all); give what was removed.

    Checkpoints of later steps than `newest`, which was just written, are left from before the run went on from an
    older one: they go too, and never in place of it.
    """
    found = list_steps(run) if keep else []
    left_over = [path for step, path in found if newest is not None and step > newest]
    valid = [path for step, path in found if newest is None or step <= newest]
    removed = [*left_over, *valid[keep:]]
    for path in removed:
        remove_folder(path)
    return removed


def step_of(path: Path) -> int:
    """Give the step that a checkpoint's name tells."""
    match = _NAME.fullmatch(path.resolve().name)
    assert match is not None, f"{path} is not named like a checkpoint"
    return int(match[1])


def set_aside_later(run: Path, step: int) -> list[Path]:
    """Give the checkpoints after `step` names that are no checkpoint's, and tell them; they are never removed."""
    aside = []
    for found, path in list_steps(run):
        if found > step:
            number = next(n for n in range(1, 10**6) if not os.path.lexists(f"{path}{ASIDE_MARK}{n}"))
            aside.append(path.with_name(f"{path.name}{ASIDE_MARK}{number}"))
            with explained(path):
                disk.rename(path, aside[-1])
    if aside:
        with explained(run):
            disk.sync_folder(run)
    return aside


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
