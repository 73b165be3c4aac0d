"""Plan a PEFT folder: export of a training checkpoint that holds adapters, whatever its layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from qvl_core.weights.hf_writer import write_json
from qvl_core.weights.peft_writer import CONFIG_FILE, WEIGHTS_FILE, peft_config, peft_key
from qvl_core.weights.safetensors_writer import TensorShape, WrittenFile, outline
from qvl_core.weights.whole_tensors import WholeTensors

from qvl_convert.plan_hf import whole_task
from qvl_convert.plan_sharded import identity_of, planned_file
from qvl_convert.transfer import Job, Place


def plan_peft(source: WholeTensors, *, base: Path | None) -> Job:
    """Give the job that writes the adapters of `source` as PEFT does; `base` is named in the config if it is known."""
    assert source.lora is not None, f"{source.path} holds no adapters"
    config = peft_config(source.lora, None if base is None else str(base))
    keys = {name: peft_key(name) for name in source.tensors}
    plan = outline(
        [TensorShape(name=keys[name], dtype=one.dtype, shape=one.shape) for name, one in source.tensors.items()]
    )
    file = planned_file(WEIGHTS_FILE, plan)

    def complete(folder: Path, written: Mapping[str, WrittenFile]) -> None:
        write_json(folder / CONFIG_FILE, config)

    return Job(
        kind="export of an adapter",
        source_paths=(source.path,),
        inputs=source.inputs,
        files=(file,),
        tasks=tuple(
            whole_task(tensor, Place(file=WEIGHTS_FILE, key=keys[name], offset=plan.starts[keys[name]]))
            for name, tensor in source.tensors.items()
        ),
        identity=identity_of("export of an adapter", source, [file], json.dumps(config)),
        complete=complete,
    )
