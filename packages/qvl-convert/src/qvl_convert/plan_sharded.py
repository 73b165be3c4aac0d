"""Plan a sharded folder: import from HF, reshard from another layout, optimizer state included."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from qvl_core.durable import copy_file
from qvl_core.errors import Problem, WeightsError
from qvl_core.input_file import printable
from qvl_core.layout import Layout
from qvl_core.lora_table import weight_table
from qvl_core.params import Parameter
from qvl_core.weights.cuts import Cut, cut_of
from qvl_core.weights.hf_writer import list_side_files
from qvl_core.weights.manifest import FileRecord, build_manifest, rank_file_name, write_manifest
from qvl_core.weights.manifest_reader import read_manifest
from qvl_core.weights.optimizer_state import optimizer_file_name, split_name
from qvl_core.weights.safetensors_header import DTYPE_BYTES
from qvl_core.weights.safetensors_writer import FileOutline, TensorShape, WrittenFile, checksum_of_file, outline
from qvl_core.weights.source import STATE_NAME
from qvl_core.weights.whole_tensors import Part, WholeTensor, WholeTensors, input_of

from qvl_convert.transfer import Complete, Job, Place, PlannedFile, Segment, Stream, Target, Task

# Part of a job's identity: raise it when the same input would give other bytes.
PLAN_VERSION = 1

FileNamer = Callable[[int, int], str]


def plan_sharded(source: WholeTensors, layout: Layout, *, kind: str, source_revision: str) -> Job:
    """Give the job that writes the tensors of `source`, and its optimizer state, cut for a layout that is legal.

    Raises WeightsError if the state of a training checkpoint is not what was recorded of it.
    """
    table = {parameter.name: parameter for parameter in weight_table(source.spec, source.lora, layout)}
    groups = [(source.tensors, rank_file_name)]
    if source.has_optimizer:
        groups.append((source.optimizer, optimizer_file_name))
    files: list[PlannedFile] = []
    tasks: list[Task] = []
    for tensors, file_name in groups:
        outlines = _outlines(tensors, table, layout, file_name)
        files += [planned_file(name, plan) for name, plan in outlines.items()]
        tasks += [
            _task(tensor, table[_parameter_of(name, table)], layout.tp, outlines, file_name)
            for name, tensor in tensors.items()
        ]
    return Job(
        kind=kind,
        source_paths=(source.path,),
        # Side files are compared again at the end, like the weights.
        inputs=(*source.inputs, *map(input_of, list_side_files(source.path))),
        files=tuple(files),
        tasks=tuple(tasks),
        identity=identity_of(kind, source, files),
        complete=_completing(source, layout, source_revision),
        layout=layout,
    )


def planned_file(name: str, plan: FileOutline) -> PlannedFile:
    """Give a safetensors file of a job."""
    return PlannedFile(name=name, size=plan.size, fixed=((0, plan.header),))


def identity_of(kind: str, source: WholeTensors, files: Iterable[PlannedFile], *more: str) -> str:
    """Give a digest of everything that decides what the job writes: inputs as they are now, and the plan."""
    described = {
        "version": PLAN_VERSION,
        "kind": kind,
        "source": str(source.path.resolve()),
        "inputs": [[one.path.name, list(one.stamp)] for one in source.inputs],
        "spec": asdict(source.spec),
        "files": [
            [file.name, file.size, [[start, hashlib.sha256(data).hexdigest()] for start, data in file.fixed]]
            for file in files
        ],
        "more": more,
    }
    return f"sha256:{hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()}"


def _parameter_of(name: str, table: Mapping[str, Parameter]) -> str:
    return name if name in table else split_name(name)[0]


def _outlines(
    tensors: Mapping[str, WholeTensor], table: Mapping[str, Parameter], layout: Layout, file_name: FileNamer
) -> dict[str, FileOutline]:
    shapes: dict[str, list[TensorShape]] = {file_name(pp, tp): [] for pp in range(layout.pp) for tp in range(layout.tp)}
    for name, tensor in tensors.items():
        parameter = table[_parameter_of(name, table)]
        shape = TensorShape(name=name, dtype=tensor.dtype, shape=parameter.local_shape(layout.tp))
        for pp in parameter.stages:
            for tp in range(layout.tp):
                shapes[file_name(pp, tp)].append(shape)
    return {name: outline(found) for name, found in shapes.items()}


def _task(
    tensor: WholeTensor, parameter: Parameter, tp: int, outlines: Mapping[str, FileOutline], file_name: FileNamer
) -> Task:
    item = DTYPE_BYTES[tensor.dtype]
    parts = 1 if parameter.shard == "replicate" else tp
    cuts = [cut_of(tensor.shape, parameter.shard, tp=parts, rank=rank) for rank in range(parts)]
    streams = []
    for rank, cut in enumerate(cuts):
        holders = range(tp) if parts == 1 else (rank,)
        homes = [file_name(pp, holder) for pp in parameter.stages for holder in holders]
        streams.append(
            Stream(
                size=cut.rows * cut.columns * item,
                places=tuple(
                    Place(file=home, key=tensor.name, offset=outlines[home].starts[tensor.name]) for home in homes
                ),
                # A part that is cut as before has to come out with the checksum that it had.
                same_as=_same(tensor, parts, rank),
            )
        )
    return Task(name=tensor.name, segments=_segments(tensor, cuts, item), streams=tuple(streams))


def _same(tensor: WholeTensor, parts: int, rank: int) -> Part | None:
    return tensor.parts[rank] if len(tensor.parts) == parts else None


def _segments(tensor: WholeTensor, cuts: list[Cut], item: int) -> tuple[Segment, ...]:
    """Give the rows of the whole in order, each with the ranks that take them."""
    targets: dict[tuple[int, int], list[Target]] = {}
    for rank, cut in enumerate(cuts):
        target = Target(stream=rank, first_byte=cut.first_column * item, stop_byte=cut.stop_column * item)
        for run in cut.runs:
            targets.setdefault((run.first, run.stop), []).append(target)
    return tuple(
        Segment(tensor=tensor, first=first, stop=stop, targets=tuple(found))
        for (first, stop), found in sorted(targets.items())
    )


def _completing(source: WholeTensors, layout: Layout, source_revision: str) -> Complete:
    carried = carried_files(source) if source.kind == "checkpoint" else {}

    def complete(folder: Path, written: Mapping[str, WrittenFile]) -> None:
        for path in (*list_side_files(source.path), *(source.path / name for name in carried)):
            copy_file(path, folder / path.name)
        manifest = build_manifest(
            source.spec,
            layout,
            written,
            _dtypes(source.tensors),
            source_revision=source_revision,
            optimizer_dtypes=_dtypes(source.optimizer) if source.has_optimizer else None,
            other_files=carried,
            lora=source.lora,
        )
        write_manifest(folder, manifest)

    return complete


def _dtypes(tensors: Mapping[str, WholeTensor]) -> dict[str, str]:
    return {name: tensor.dtype for name, tensor in tensors.items()}


def carried_files(source: WholeTensors) -> dict[str, FileRecord]:
    """Give the record of a checkpoint's `state.json`. Raises WeightsError if it has not the recorded checksum."""
    path = source.path / STATE_NAME
    found = FileRecord(size=path.stat().st_size, checksum=checksum_of_file(path))
    recorded = read_manifest(source.path).files.get(STATE_NAME, found)
    if recorded.checksum not in (None, found.checksum):
        fix = "take another checkpoint of the run"
        message = "is damaged: it has not the checksum that the manifest says"
        raise WeightsError(Problem(where=printable(str(path)), message=message, fix=fix))
    return {STATE_NAME: found}
