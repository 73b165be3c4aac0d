"""Write a sharded folder, or a training checkpoint, as an HF folder. Bytes are copied, nothing is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from qvl_core.durable import require_free
from qvl_core.errors import Problem, WeightsError
from qvl_core.input_file import printable
from qvl_core.json_file import read_json_object
from qvl_core.specs.load import CONFIG_NAME, load_spec, spec_differences
from qvl_core.weights.hf_writer import config_with_dtype, write_hf_folder
from qvl_core.weights.names import Naming
from qvl_core.weights.safetensors_writer import TensorToWrite, WrittenFile

from qvl_convert.whole_tensors import WholeTensor, WholeTensors, blocks


def export_folder(
    source: WholeTensors,
    hf_files: Path,
    out: Path,
    *,
    naming: Naming,
    max_shard_bytes: int,
    advance: Callable[[int], None],
) -> tuple[WrittenFile, ...]:
    """Write the weights of `source`, with the side files of `hf_files`, to the new folder `out`.

    Raises WeightsError if the config of `hf_files` describes another model, OutputError if `out` is taken.
    """
    require_free(out)
    differences = spec_differences(source.spec, load_spec(hf_files))
    if differences:
        message = "\n".join(["its config.json describes another model than the weights:", *differences[:10]])
        fix = "give the folder of the model that the weights were made from"
        raise WeightsError(Problem(where=printable(str(hf_files)), message=message, fix=fix))
    # Read strictly by load_spec above; the file is copied as it is unless its dtype is not that of the weights.
    config = read_json_object(hf_files / CONFIG_NAME)
    dtypes = {tensor.dtype for tensor in source.tensors.values()}
    changed = config_with_dtype(config, dtypes.pop()) if len(dtypes) == 1 else config
    tensors = [_to_write(name, tensor, advance) for name, tensor in source.tensors.items()]
    return write_hf_folder(
        tensors,
        hf_files,
        out,
        naming=naming,
        max_shard_bytes=max_shard_bytes,
        config=changed if changed != config else None,
    )


def _to_write(name: str, tensor: WholeTensor, advance: Callable[[int], None]) -> TensorToWrite:
    def chunks() -> Iterator[bytes]:
        for block in blocks(tensor):
            yield block.tobytes()
            advance(block.nbytes)

    return TensorToWrite(name=name, dtype=tensor.dtype, shape=tensor.parameter.shape, chunks=chunks)
