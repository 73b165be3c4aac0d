"""Find the rank files of a folder of the reference stack, and the tensors of each.

    latest_checkpointed_iteration.txt           release, or the number of a training step
    release/mp_rank_TT/model_optim_rng.pt       TT tensor rank; one pipeline stage
    iter_0005000/mp_rank_TT_PPP/...             PPP pipeline stage

A file holds `model`, or `model0`, `model1` ... with virtual stages: then chunk v of stage p is part v * pp + p of the
whole. Everything else that a training run saves beside the weights is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from qvl_core.errors import Problem, WeightsError
from qvl_core.input_file import printable, read_regular_file, readable
from qvl_core.weights.safetensors_header import DTYPE_BYTES
from qvl_core.weights.whole_tensors import Input

from qvl_convert.mindspeed.pickle_records import TorchTensor
from qvl_convert.mindspeed.torch_archive import StoredEntry, TorchArchive, open_archive
from qvl_convert.mindspeed.unpickler import unpickle

LATEST = "latest_checkpointed_iteration.txt"
RELEASE = "release"
RANK_FILE = "model_optim_rng.pt"
SHOWN = 10
_RANK_FOLDER = re.compile(r"mp_rank_(\d{2})(?:_(\d{3}))?(_\d+)?")
_CHUNK = re.compile(r"model(\d{1,3})")
_EXTRA_STATE = "_extra_state"


@dataclass(frozen=True, kw_only=True)
class FoundTensor:
    """A tensor of a rank file. `start` is the first byte of its storage, `tensor` says how it views it."""

    key: str
    file: Path
    start: int
    tensor: TorchTensor


@dataclass(frozen=True, kw_only=True)
class RankFile:
    """One rank's file; `chunks` has one mapping from key to tensor, or one a virtual stage. `storages` are by key."""

    path: Path
    chunks: tuple[Mapping[str, FoundTensor], ...]
    storages: Mapping[str, StoredEntry]
    input: Input


@dataclass(frozen=True, kw_only=True)
class MindspeedFolder:
    """All rank files of one iteration, by (pipeline stage, tensor rank), and what was left out."""

    path: Path
    tp: int
    pp: int
    ranks: Mapping[tuple[int, int], RankFile]
    inputs: tuple[Input, ...]
    left_out: tuple[str, ...]

    @property
    def virtual(self) -> int:
        """Virtual stages on each pipeline stage."""
        return len(next(iter(self.ranks.values())).chunks)


def rank_folder_name(pp: int, tp: int, *, stages: int) -> str:
    """Give the name of a rank's folder."""
    return f"mp_rank_{tp:02d}" if stages == 1 else f"mp_rank_{tp:02d}_{pp:03d}"


def open_mindspeed_folder(path: str | Path) -> MindspeedFolder:
    """Give the opened folder, or the one of an iteration within it. No tensor is read. Raises WeightsError."""
    root = Path(path)
    with readable(root):
        if not root.is_dir():
            message = "is not a folder" if root.exists() else "there is no such folder"
            _fail(root, message, "give the folder that mm-convert or the training wrote")
        folder = _iteration(root)
        folders, pp = _rank_folders(folder)
        ranks = {place: _open_rank(folders[place] / RANK_FILE) for place in sorted(folders)}
        left_out = sorted(
            f"{rank.name}/{entry.name}"
            for rank in folders.values()
            for entry in rank.iterdir()
            if entry.name != RANK_FILE
        )
    counts = {len(rank.chunks) for rank in ranks.values()}
    if len(counts) != 1:
        _fail(folder, f"has files of {min(counts)} and of {max(counts)} virtual stages", "copy the folder again")
    return MindspeedFolder(
        path=folder,
        tp=len(folders) // pp,
        pp=pp,
        ranks=ranks,
        inputs=tuple(rank.input for rank in ranks.values()),
        left_out=tuple(left_out),
    )


def _iteration(root: Path) -> Path:
    latest = root / LATEST
    if not latest.exists():
        if any(_RANK_FOLDER.fullmatch(entry.name) for entry in root.iterdir()):
            return root
        _fail(root, f"holds neither {LATEST} nor folders mp_rank_...", "give the folder that holds one of them")
    text = read_regular_file(latest, limit=100).strip()
    if text == RELEASE.encode():
        folder = root / RELEASE
    elif text.isdigit() and len(text) <= 10:
        folder = root / f"iter_{int(text):07d}"
    else:
        message = f"holds {printable(repr(text.decode('ascii', 'replace')), 60)}, not {RELEASE} or a step"
        _fail(latest, message, f"write the name of the checkpoint into it, for example {RELEASE}")
    if not folder.is_dir():
        _fail(latest, f"names {folder.name}, which is not there", "copy that folder as well, or correct the file")
    return folder


def _rank_folders(folder: Path) -> tuple[dict[tuple[int, int], Path], int]:
    """Give the folders by (stage, rank), a complete grid, and the number of stages."""
    found: dict[tuple[int, int], Path] = {}
    staged = set()
    for entry in folder.iterdir():
        match = _RANK_FOLDER.fullmatch(entry.name)
        if match is None:
            continue
        if match[3]:
            _fail(entry, "is the part of an expert parallel rank; this model has no experts", "give another folder")
        staged.add(match[2] is not None)
        found[int(match[2] or 0), int(match[1])] = entry
    if not found:
        _fail(folder, "holds no folder mp_rank_...", "give the folder that mm-convert or the training wrote")
    if len(staged) != 1:
        _fail(folder, "holds folders mp_rank_TT as well as mp_rank_TT_PPP", "remove those of another conversion")
    pp, tp = (1 + max(place[i] for place in found) for i in (0, 1))
    names = [
        f"mp_rank_{rank:02d}" + (f"_{stage:03d}" if staged == {True} else "") + f"/{RANK_FILE}"
        for stage in range(pp)
        for rank in range(tp)
        if (stage, rank) not in found or not (found[stage, rank] / RANK_FILE).exists()
    ]
    if names:
        more = f"\n... and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        message = f"lacks {len(names)} of the {pp * tp} files of {tp} tensor ranks and {pp} stages:\n"
        _fail(folder, message + "\n".join(names[:SHOWN]) + more, "copy them as well")
    return found, pp


def _open_rank(path: Path) -> RankFile:
    archive = open_archive(path)
    state = unpickle(archive.pickle, path)
    if type(state) is not dict:
        _fail(path, "holds no dictionary with the key model", "give a checkpoint of this model")
    names = [name for name in state if type(name) is str and (name == "model" or _CHUNK.fullmatch(name))]
    wanted = ["model"] if "model" in names else [f"model{number}" for number in range(len(names))]
    if not names or set(names) != set(wanted):
        found = ", ".join(printable(str(name), 40) for name in list(state)[:SHOWN] if type(name) is str)
        message = f"has to hold model, or model0, model1 ...; it holds {found or 'nothing'}"
        _fail(path, message, "give a checkpoint of this model")
    chunks = tuple(_tensors(archive, name, state[name]) for name in wanted)
    used = {found.tensor.storage.key for chunk in chunks for found in chunk.values()}
    storages = {key: archive.entries[f"data/{key}"] for key in sorted(used)}
    return RankFile(path=path, chunks=chunks, storages=storages, input=Input(path=path, stamp=archive.stamp))


def _tensors(archive: TorchArchive, name: str, model: Any) -> dict[str, FoundTensor]:
    if type(model) is not dict:
        _fail(archive.file, "is not a dictionary of tensors", "give a checkpoint of this model", name)
    tensors = {}
    for key, value in model.items():
        # Megatron's layers state that they have no further state.
        if value is None or (type(key) is str and key.endswith(_EXTRA_STATE)):
            continue
        if type(key) is not str or type(value) is not TorchTensor:
            message = f"is not a tensor but a value of type {type(value).__name__}"
            _fail(archive.file, message, "give a checkpoint of this model", f"{name}.{printable(str(key), 120)}")
        tensors[key] = _located(archive, key, value)
    return tensors


def _located(archive: TorchArchive, key: str, tensor: TorchTensor) -> FoundTensor:
    storage = tensor.storage
    entry = archive.entries.get(f"data/{storage.key}")
    shown = printable(key, 120)
    if entry is None:
        _fail(archive.file, f"lies in data/{storage.key}, which is not in the archive", "copy the file again", shown)
    size = storage.count * DTYPE_BYTES[storage.dtype]
    if entry.size != size:
        message = (
            f"lies in data/{storage.key} of {entry.size:,} bytes; {storage.count:,} x {storage.dtype} are {size:,}"
        )
        _fail(archive.file, message, "copy the file again", shown)
    return FoundTensor(key=key, file=archive.file, start=entry.start, tensor=tensor)


def _fail(path: Path, message: str, fix: str, key: str = "") -> NoReturn:
    raise WeightsError(Problem(where=printable(str(path)), key=key, message=message, fix=fix))
