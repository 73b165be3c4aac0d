"""Plan an HF folder: export from any layout, merge of an adapter, import from the reference stack."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qvl_core.durable import copy_file
from qvl_core.errors import Problem, WeightsError
from qvl_core.input_file import printable
from qvl_core.json_file import read_json_object
from qvl_core.specs.load import CONFIG_NAME, load_spec, model_differences
from qvl_core.weights.hf_folder import INDEX_FILE
from qvl_core.weights.hf_writer import config_with_dtype, index_of, list_side_files, plan_shards, write_json
from qvl_core.weights.names import Naming, spell
from qvl_core.weights.safetensors_writer import TensorShape, WrittenFile, outline
from qvl_core.weights.whole_tensors import WholeTensor, WholeTensors, input_of

from qvl_convert.plan_sharded import identity_of, planned_file
from qvl_convert.transfer import Complete, Job, Place, Segment, Stream, Target, Task, Transform


def plan_hf(
    source: WholeTensors,
    hf_files: Path,
    *,
    kind: str,
    naming: Naming,
    max_shard_bytes: int,
    transforms: Mapping[str, Transform] | None = None,
    more_identity: tuple[str, ...] = (),
) -> Job:
    """Give the job that writes the weights of `source` as an HF folder, with the side files of `hf_files`.

    `transforms`, by classic name, change bytes on the way; `more_identity` says what they depend on. Raises
    WeightsError if the config of `hf_files` describes another model.
    """
    _require_same_model(source, hf_files)
    spelt = {spell(name, naming): tensor for name, tensor in source.tensors.items()}
    shards = plan_shards([(name, tensor.size) for name, tensor in spelt.items()], max_shard_bytes)
    files, tasks = [], []
    for file, names in shards.items():
        plan = outline([TensorShape(name=name, dtype=spelt[name].dtype, shape=spelt[name].shape) for name in names])
        files.append(planned_file(file, plan))
        tasks += [
            whole_task(
                spelt[name],
                Place(file=file, key=name, offset=plan.starts[name]),
                (transforms or {}).get(spelt[name].name),
            )
            for name in names
        ]
    side_inputs = tuple(map(input_of, list_side_files(hf_files)))
    stamps = [f"{one.path.name} {one.stamp}" for one in side_inputs]
    return Job(
        kind=kind,
        source_paths=(source.path, hf_files),
        # Side files are compared again at the end, like the weights.
        inputs=(*source.inputs, *side_inputs),
        files=tuple(files),
        tasks=tuple(tasks),
        identity=identity_of(kind, source, files, *stamps, *more_identity),
        complete=_completing(source, hf_files, shards),
    )


def _require_same_model(source: WholeTensors, hf_files: Path) -> None:
    differences = model_differences(source.spec, load_spec(hf_files))
    if differences:
        message = "\n".join(["its config.json describes another model than the weights:", *differences[:10]])
        fix = "give the folder of the model that the weights were made from"
        raise WeightsError(Problem(where=printable(str(hf_files)), message=message, fix=fix))


def whole_task(tensor: WholeTensor, place: Place, transform: Transform | None = None) -> Task:
    """Give the task that puts a whole tensor in one place."""
    same = tensor.parts[0] if len(tensor.parts) == 1 and transform is None else None
    target = Target(stream=0, first_byte=0, stop_byte=tensor.row_bytes)
    return Task(
        name=tensor.name,
        segments=(Segment(tensor=tensor, first=0, stop=tensor.rows, targets=(target,)),),
        streams=(Stream(size=tensor.size, places=(place,), same_as=same),),
        transform=transform,
    )


def _completing(source: WholeTensors, hf_files: Path, shards: Mapping[str, list[str]]) -> Complete:
    # Read strictly by load_spec; the file is copied as it is unless its dtype is not that of the weights.
    config = read_json_object(hf_files / CONFIG_NAME)
    changed = _config_of(config, source)

    def complete(folder: Path, written: Mapping[str, WrittenFile]) -> None:
        for path in list_side_files(hf_files):
            if path.name != CONFIG_NAME:
                copy_file(path, folder / path.name)
        if len(shards) > 1:
            write_json(folder / INDEX_FILE, index_of(shards, source.size))
        # Last: without its config nobody takes the folder for a checkpoint.
        if changed == config:
            copy_file(hf_files / CONFIG_NAME, folder / CONFIG_NAME)
        else:
            write_json(folder / CONFIG_NAME, changed)

    return complete


def _config_of(config: Mapping[str, Any], source: WholeTensors) -> Mapping[str, Any]:
    dtypes = {tensor.dtype for tensor in source.tensors.values()}
    return config_with_dtype(config, dtypes.pop()) if len(dtypes) == 1 else config
