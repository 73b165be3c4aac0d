"""One view of any weights folder: every tensor as a stream of blocks of its whole rows, whatever its layout.

A block is at most `BLOCK_BYTES`, and two folders that hold a tensor of one shape and dtype give the same blocks, so
they can be compared or copied without holding a tensor. Arrays hold raw bits: bfloat16 comes as uint16.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qvl_core.errors import Problem, WeightsError
from qvl_core.input_file import open_regular_file, printable
from qvl_core.params import Parameter, parameter_table
from qvl_core.specs.model_spec import ModelSpec
from qvl_core.weights.hf_folder import HFFolder, require_tensors
from qvl_core.weights.manifest import rank_file_name
from qvl_core.weights.raw_bytes import first_difference, read_exactly
from qvl_core.weights.safetensors_header import DTYPE_BYTES, TensorEntry
from qvl_core.weights.sharded_folder import ShardedFolder
from qvl_core.weights.source import open_source

BLOCK_BYTES = 8 * 1024**2

_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass(frozen=True, kw_only=True)
class WholeTensor:
    """A tensor of a folder, and the parts that make it up: (entry, recorded checksum or None) in tensor-rank order."""

    parameter: Parameter
    dtype: str
    parts: tuple[tuple[TensorEntry, str | None], ...]

    @property
    def size(self) -> int:
        """Bytes of the whole tensor."""
        return self.parameter.size * DTYPE_BYTES[self.dtype]

    @property
    def row_count(self) -> int:
        """Rows, counted along dim 0."""
        return self.parameter.shape[0]

    @property
    def rows_per_block(self) -> int:
        """Rows in every block but the last."""
        row_bytes = max(1, self.size // max(1, self.row_count))
        return max(1, BLOCK_BYTES // row_bytes)


@dataclass(frozen=True, kw_only=True)
class WholeTensors:
    """All tensors of a folder by classic name, in table order."""

    path: Path
    spec: ModelSpec
    source_revision: str
    tensors: Mapping[str, WholeTensor]

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.size for tensor in self.tensors.values())


def open_whole_tensors(path: str | Path) -> WholeTensors:
    """Open an HF, sharded or checkpoint folder. Raises WeightsError, also where copies of one tensor differ."""
    folder = open_source(path)
    return _of_hf(folder) if isinstance(folder, HFFolder) else _of_sharded(folder)


def blocks(tensor: WholeTensor) -> Iterator[NDArray[Any]]:
    """Give the tensor's blocks of raw bits, [rows, elements of a row], in order.

    Raises WeightsError after the last block if a part does not have its recorded checksum, RunError if a file
    changes meanwhile.
    """
    tp = len(tensor.parts)
    # HF files have no recorded checksums, so theirs are not computed.
    digests = [None if wanted is None else hashlib.sha256() for _, wanted in tensor.parts]
    with ExitStack() as stack:
        files = [stack.enter_context(open_regular_file(entry.file)) for entry, _ in tensor.parts]

        def read(rank: int, start: int, stop: int) -> NDArray[Any]:
            entry = tensor.parts[rank][0]
            row_bytes = entry.size // entry.shape[0] if entry.shape[0] else 0
            first = entry.start + start * row_bytes
            data = read_exactly(files[rank].fileno(), first, (stop - start) * row_bytes, entry.file)
            # A rank's rows are asked for in order and once each, so its checksum needs no second reading.
            if (digest := digests[rank]) is not None:
                digest.update(data)
            return np.frombuffer(data, _UNSIGNED[DTYPE_BYTES[tensor.dtype]]).reshape(stop - start, -1)

        for start in range(0, tensor.row_count, tensor.rows_per_block):
            stop = min(start + tensor.rows_per_block, tensor.row_count)
            if tensor.parameter.shard == "row" and tp > 1:
                yield np.concatenate([read(rank, start, stop) for rank in range(tp)], axis=1)
            else:
                found = [read(*segment) for segment in _segments(tensor, start, stop)]
                yield found[0] if len(found) == 1 else np.concatenate(found, axis=0)
    _check_digests(tensor, [None if digest is None else f"sha256:{digest.hexdigest()}" for digest in digests])


def _segments(tensor: WholeTensor, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Give (rank, first, end) in each rank's own rows that together are the whole's rows `start` to `stop`."""
    tp, rows = len(tensor.parts), tensor.row_count
    # The vision qkv has three groups of rows, each cut into tp parts; everything else has one.
    groups = 3 if tensor.parameter.shard == "fused_thirds" and tp > 1 else 1
    run = rows // groups // tp
    while start < stop:
        group, rank = divmod(start // run, tp)
        inside = start % run
        count = min(run - inside, stop - start)
        yield rank, group * run + inside, group * run + inside + count
        start += count


def _of_hf(folder: HFFolder) -> WholeTensors:
    require_tensors(folder, folder.spec)
    tensors = {}
    for parameter in parameter_table(folder.spec):
        entry = folder.tensors[parameter.name]
        tensors[parameter.name] = WholeTensor(parameter=parameter, dtype=entry.dtype, parts=((entry, None),))
    return WholeTensors(path=folder.path, spec=folder.spec, source_revision="", tensors=tensors)


def _of_sharded(folder: ShardedFolder) -> WholeTensors:
    manifest, tensors = folder.manifest, {}
    for parameter in parameter_table(manifest.spec, manifest.layout):
        record = manifest.tensors[parameter.name]
        homes = [(pp, tp) for pp in parameter.stages for tp in range(manifest.layout.tp)]
        copies = [(folder.ranks[home][parameter.name], record.parts[rank_file_name(*home)]) for home in homes]
        parts = copies[:1] if parameter.shard == "replicate" else copies[: manifest.layout.tp]
        # What is left is a copy of a part: of a replicated tensor, or of a tied embedding on the last stage.
        for i, (entry, _) in enumerate(copies[len(parts) :]):
            _check_copy(parts[i % len(parts)][0], entry)
        tensors[parameter.name] = WholeTensor(parameter=parameter, dtype=record.dtype, parts=tuple(parts))
    return WholeTensors(path=folder.path, spec=manifest.spec, source_revision=manifest.source_revision, tensors=tensors)


def _check_copy(entry: TensorEntry, copy: TensorEntry) -> None:
    at = first_difference(entry, copy)
    if at is not None:
        message = f"differs from the copy in {entry.file.name}, first in byte {at:,} of {entry.size:,}"
        raise WeightsError(Problem(where=printable(str(copy.file)), key=copy.name, message=message, fix=_ANEW))


def _check_digests(tensor: WholeTensor, found: list[str | None]) -> None:
    problems = [
        Problem(
            where=printable(str(entry.file)),
            key=entry.name,
            message=f"is damaged: its bytes have the checksum {digest[:19]}..., the manifest says {wanted[:19]}...",
            fix=_ANEW,
        )
        for (entry, wanted), digest in zip(tensor.parts, found, strict=True)
        if digest is not None and wanted is not None and wanted != digest
    ]
    if problems:
        raise WeightsError(problems)


_ANEW = "copy the folder again from where it was written, or take another checkpoint"
