"""Open a sharded weights folder: its manifest, and where every part of every tensor lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qvl_core.errors import Problem, WeightsError
from qvl_core.input_file import printable, readable
from qvl_core.lora_table import weight_table
from qvl_core.params import Parameter
from qvl_core.specs.load import CONFIG_NAME, load_spec, model_differences
from qvl_core.weights.manifest import MANIFEST_NAME, Manifest, TensorRecord, rank_file_name
from qvl_core.weights.manifest_reader import read_manifest
from qvl_core.weights.optimizer_state import optimizer_file_name, split_name
from qvl_core.weights.safetensors_header import SafetensorsHeader, TensorEntry, read_header
from qvl_core.weights.safetensors_writer import checksum_of_tensor


@dataclass(frozen=True, kw_only=True)
class ShardedFolder:
    """A sharded checkpoint. `ranks` has the tensors of each rank file, by (pipeline stage, tensor rank).

    `optimizer` has those of the optimizer files in the same way, and is empty where there are no such files.
    """

    path: Path
    manifest: Manifest
    ranks: Mapping[tuple[int, int], Mapping[str, TensorEntry]]
    optimizer: Mapping[tuple[int, int], Mapping[str, TensorEntry]] = field(default_factory=dict)


def open_sharded_folder(path: str | Path) -> ShardedFolder:
    """Give the opened folder: manifest, sizes and headers agree; checksums are not computed. Raises WeightsError."""
    folder = Path(path)
    with readable(folder):
        manifest = read_manifest(folder)
        _require_one_model(folder, manifest)
    layout = manifest.layout
    rows = {parameter.name: parameter for parameter in weight_table(manifest.spec, manifest.lora, layout)}
    state = {name: rows[split_name(name)[0]] for name in manifest.optimizer}
    ranks, optimizer, problems = {}, {}, []
    for pp in range(layout.pp):
        for tp in range(layout.tp):
            header = read_header(folder / rank_file_name(pp, tp))
            ranks[pp, tp] = header.tensors
            problems += _rank_problems(header, _of_stage(rows, pp), manifest.tensors, layout.tp)
            if manifest.has_optimizer:
                header = read_header(folder / optimizer_file_name(pp, tp))
                optimizer[pp, tp] = header.tensors
                problems += _rank_problems(header, _of_stage(state, pp), manifest.optimizer, layout.tp)
    if problems:
        raise WeightsError(problems[:10])
    return ShardedFolder(path=folder, manifest=manifest, ranks=ranks, optimizer=optimizer)


def verify_checksums(folder: ShardedFolder, pp: int, tp: int) -> None:
    """Compare the bytes of one rank's files, the optimizer's included, with the manifest.

    Raises WeightsError naming each damaged tensor.
    """
    files = [(rank_file_name(pp, tp), folder.ranks[pp, tp], folder.manifest.tensors)]
    if folder.optimizer:
        files.append((optimizer_file_name(pp, tp), folder.optimizer[pp, tp], folder.manifest.optimizer))
    problems = [
        _problem(folder.path / name, entry.name, f"is damaged: {found[:19]}... is not the recorded {wanted[:19]}...")
        for name, entries, records in files
        for entry in entries.values()
        if (found := checksum_of_tensor(entry)) != (wanted := records[entry.name].parts[name])
    ]
    if problems:
        raise WeightsError(problems[:10])


def _require_one_model(folder: Path, manifest: Manifest) -> None:
    """Raise WeightsError if the manifest and the config beside it describe two models: then one of them is damaged.

    What shapes no tensor, like the rotary base, is nowhere else to be found wrong.
    """
    if not (folder / CONFIG_NAME).is_file():
        return
    differences = model_differences(manifest.spec, load_spec(folder))
    if differences:
        message = "\n".join([f"and {CONFIG_NAME} beside it describe two models:", *differences[:10]])
        where = printable(str(folder / MANIFEST_NAME))
        raise WeightsError(Problem(where=where, message=message, fix="copy both again from where they were written"))


def _of_stage(rows: Mapping[str, Parameter], pp: int) -> dict[str, Parameter]:
    return {name: parameter for name, parameter in rows.items() if pp in parameter.stages}


def _rank_problems(
    header: SafetensorsHeader, wanted: Mapping[str, Parameter], records: Mapping[str, TensorRecord], tp: int
) -> list[Problem]:
    """List how a file differs from the tensors, by name, that its rank has to hold."""
    problems = []
    for name, parameter in wanted.items():
        entry, shape = header.tensors.get(name), parameter.local_shape(tp)
        if entry is None:
            problems.append(_problem(header.file, name, "is missing from this rank's file"))
        elif entry.shape != shape:
            message = f"has shape {list(entry.shape)}, this rank's part is {list(shape)}"
            problems.append(_problem(header.file, name, message))
        elif entry.dtype != records[name].dtype:
            message = f"is {entry.dtype}, the manifest says {records[name].dtype}"
            problems.append(_problem(header.file, name, message))
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
