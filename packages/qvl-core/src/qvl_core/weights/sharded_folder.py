"""Open a sharded weights folder: its manifest, and where every part of every tensor lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qvl_core.errors import Problem, WeightsError
from qvl_core.input_file import printable, readable
from qvl_core.params import Parameter
from qvl_core.weights.manifest import Manifest, rank_file_name, rank_tensors
from qvl_core.weights.manifest_reader import read_manifest
from qvl_core.weights.safetensors_header import SafetensorsHeader, TensorEntry, read_header
from qvl_core.weights.safetensors_writer import checksum_of_tensor


@dataclass(frozen=True, kw_only=True)
class ShardedFolder:
    """A sharded checkpoint; `ranks` has the tensors of each rank file, by (pipeline stage, tensor rank)."""

    path: Path
    manifest: Manifest
    ranks: Mapping[tuple[int, int], Mapping[str, TensorEntry]]


def open_sharded_folder(path: str | Path) -> ShardedFolder:
    """Give the opened folder: manifest, sizes and headers agree; checksums are not computed. Raises WeightsError."""
    folder = Path(path)
    with readable(folder):
        manifest = read_manifest(folder)
    layout = manifest.layout
    ranks, problems = {}, []
    for pp in range(layout.pp):
        table = rank_tensors(manifest.spec, layout, pp)
        for tp in range(layout.tp):
            header = read_header(folder / rank_file_name(pp, tp))
            ranks[pp, tp] = header.tensors
            problems += _rank_problems(header, table, manifest)
    if problems:
        raise WeightsError(problems[:10])
    return ShardedFolder(path=folder, manifest=manifest, ranks=ranks)


def verify_checksums(folder: ShardedFolder, pp: int, tp: int) -> None:
    """Compare the bytes of one rank file with the manifest. Raises WeightsError naming each damaged tensor."""
    name = rank_file_name(pp, tp)
    problems = [
        _problem(folder.path / name, entry.name, f"is damaged: {found[:19]}... is not the recorded {wanted[:19]}...")
        for entry in folder.ranks[pp, tp].values()
        if (found := checksum_of_tensor(entry)) != (wanted := folder.manifest.tensors[entry.name].parts[name])
    ]
    if problems:
        raise WeightsError(problems[:10])


def _rank_problems(header: SafetensorsHeader, table: tuple[Parameter, ...], manifest: Manifest) -> list[Problem]:
    problems = []
    for parameter in table:
        entry, shape = header.tensors.get(parameter.name), parameter.local_shape(manifest.layout.tp)
        if entry is None:
            problems.append(_problem(header.file, parameter.name, "is missing from this rank's file"))
        elif entry.shape != shape:
            message = f"has shape {list(entry.shape)}, this rank's part is {list(shape)}"
            problems.append(_problem(header.file, parameter.name, message))
        elif entry.dtype != manifest.tensors[parameter.name].dtype:
            message = f"is {entry.dtype}, the manifest says {manifest.tensors[parameter.name].dtype}"
            problems.append(_problem(header.file, parameter.name, message))
    wanted = {parameter.name for parameter in table}
    problems += [
        _problem(header.file, name, "does not belong into this rank's file")
        for name in header.tensors
        if name not in wanted
    ]
    return problems


def _problem(file: Path, tensor: str, message: str) -> Problem:
    return Problem(
        where=printable(str(file)), key=tensor, message=message, fix="copy the folder again from where it was written"
    )
