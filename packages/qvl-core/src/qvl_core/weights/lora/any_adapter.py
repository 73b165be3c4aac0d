"""Adapters on top of weights while these are loaded: a PEFT folder, or a training checkpoint in any layout.

A rank merges them into its own parts of the tensors. Every element of a merge is defined on its own (`product`), so a
part has the bits that it would have been cut with from what `qvl convert merge` writes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qvl_core.errors import Problem, WeightsError
from qvl_core.input_file import printable, readable
from qvl_core.layout import Layout
from qvl_core.lora_table import Lora, base_of, factor_names
from qvl_core.params import parameter_table
from qvl_core.specs import ModelSpec, model_differences
from qvl_core.weights.cuts import Cut, cut_of
from qvl_core.weights.fingerprint import fingerprint
from qvl_core.weights.local_tensors import local_tensors, local_values
from qvl_core.weights.lora.adapter import Adapter, open_adapter
from qvl_core.weights.lora.adapter_config import CONFIG_FILE
from qvl_core.weights.lora.fit import require_fit
from qvl_core.weights.lora.merge import GivenUpdate, GivenValues, MergeTransform
from qvl_core.weights.lora.targets import Targets
from qvl_core.weights.manifest import MANIFEST_NAME
from qvl_core.weights.sharded_folder import open_sharded_folder
from qvl_core.weights.tensor_io import raw_to_float32
from qvl_core.weights.whole_tensors import WholeTensors, whole_tensors_of

_MOST_THREADS = 8
# Of a tensor, merged by a thread at a time.
_BLOCK_BYTES = 2 * 1024**2


class AnyAdapter(Protocol):
    """An opened adapter that fits its model. `identity` changes with what it makes of a base, and with its format."""

    @property
    def path(self) -> Path: ...
    @property
    def identity(self) -> str: ...
    @property
    def base_revision(self) -> str:
        """Give the fingerprint of the weights that it was trained on, empty where it does not know."""
        ...

    @property
    def names(self) -> frozenset[str]:
        """Name the tensors of the model that it changes."""
        ...

    def change(self, name: str, cut: Cut) -> GivenUpdate | GivenValues:
        """Give what becomes of a part of a tensor."""
        ...


def open_any_adapter(folder: str | Path, spec: ModelSpec) -> AnyAdapter:
    """Open a PEFT folder or a checkpoint that holds adapters, and check it against the model; reads it once through.

    Raises WeightsError for what is missing, damaged, no adapter, or of another model.
    """
    path = Path(folder)
    with readable(path):
        names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    if MANIFEST_NAME in names:
        return _open_sharded(path, spec)
    if CONFIG_FILE not in names:
        _refuse_run_folder(path, names)
    adapter = open_adapter(path)
    return _PeftAdapter(adapter=adapter, targets=require_fit(adapter, spec))


def merged_values(
    source: WholeTensors, adapter: AnyAdapter, layout: Layout, pp: int, tp: int
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield (name, fp32 array) of the rank's weights with the adapter merged in, each rounded to the base's dtype.

    Raises what `local_values` raises, and WeightsError where a sum is too large for the dtype.
    """
    table = {row.name: row for row in parameter_table(source.spec, layout)}
    names, where = adapter.names, printable(str(adapter.path))
    with ThreadPoolExecutor(min(_MOST_THREADS, len(os.sched_getaffinity(0)))) as pool:
        for tensor in local_tensors(source, layout, pp, tp):
            array = tensor.array
            if tensor.name in names:
                row = table[tensor.name]
                change = adapter.change(tensor.name, cut_of(row.shape, row.shard, tp=layout.tp, rank=tp))
                merge = MergeTransform(tensor.name, array.shape[0], tensor.dtype, change, where)
                array = _merged(array, merge, pool)
            yield tensor.name, raw_to_float32(array, tensor.dtype)


def _merged(array: NDArray[Any], merge: MergeTransform, pool: ThreadPoolExecutor) -> NDArray[Any]:
    """Give the raw bits of a merged part; blocks of rows are merged beside each other."""
    rows = array.shape[0]
    data = np.ascontiguousarray(array).view(np.uint8).reshape(rows, -1)
    step = max(1, _BLOCK_BYTES // data.shape[1])
    blocks = list(pool.map(lambda first: merge(first, data[first : first + step]), range(0, rows, step)))
    merged: NDArray[Any] = np.concatenate(blocks).reshape(-1).view(array.dtype).reshape(array.shape)
    return merged


@dataclass(frozen=True, kw_only=True, eq=False)
class _PeftAdapter:
    """PEFT's format: factors are read when their tensor is merged."""

    adapter: Adapter
    targets: Targets

    @property
    def path(self) -> Path:
        return self.adapter.path

    @property
    def identity(self) -> str:
        return self.adapter.identity

    @property
    def base_revision(self) -> str:
        return ""

    @property
    def names(self) -> frozenset[str]:
        return frozenset([*self.targets.low_rank, *self.targets.replaced])

    def change(self, name: str, cut: Cut) -> GivenUpdate | GivenValues:
        adapter = self.adapter
        if name in self.targets.replaced:
            entry = adapter.whole[name]
            return GivenValues(_part(adapter.read_rows(entry, 0, max(1, entry.shape[0])), cut))
        update = self.targets.low_rank[name]
        a_KC = adapter.read_rows(adapter.factors_a[name], 0, update.rank)
        factor_b = adapter.factors_b[name]
        base = adapter.bases.get(name)
        return GivenUpdate(
            a_KC=a_KC[:, cut.first_column : cut.stop_column],
            b_RK=_rows(adapter.read_rows(factor_b, 0, factor_b.shape[0]), cut),
            scale=update.scale,
            base_RC=None if base is None else _part(adapter.read_rows(base, 0, base.shape[0]), cut),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _TrainedAdapter:
    """A checkpoint of adapters. Factors are held whole: they are small beside the model."""

    path: Path
    identity: str
    base_revision: str
    lora: Lora
    factors: Mapping[str, NDArray[np.float32]]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(map(base_of, self.factors))

    def change(self, name: str, cut: Cut) -> GivenUpdate | GivenValues:
        a_KC, b_RK = (self.factors[factor] for factor in factor_names(name))
        return GivenUpdate(
            a_KC=a_KC[:, cut.first_column : cut.stop_column], b_RK=_rows(b_RK, cut), scale=self.lora.scale, base_RC=None
        )


def _open_sharded(path: Path, spec: ModelSpec) -> _TrainedAdapter:
    folder = open_sharded_folder(path)
    lora, where = folder.manifest.lora, printable(str(path))
    if lora is None:
        message = "holds a whole model, not adapters"
        raise WeightsError(Problem(where=where, message=message, fix=f'weights.source = "{where}", without an adapter'))
    if different := model_differences(spec, folder.manifest.spec):
        message = "holds adapters of another model:\n" + "\n".join(different[:10])
        raise WeightsError(Problem(where=where, message=message, fix="is this the base that they were trained on?"))
    factors = dict(local_values(whole_tensors_of(folder), Layout.single(spec), 0, 0))
    broken = [name for name, array in factors.items() if not np.isfinite(array).all()]
    if broken:
        message = f"{len(broken)} tensors hold values that are infinite or not a number, the first is {broken[0]}"
        fix = "take an earlier checkpoint of the training: this one has diverged"
        raise WeightsError(Problem(where=where, message=message, fix=fix))
    return _TrainedAdapter(
        path=path,
        identity=f"lora {_settings_digest(lora)} {fingerprint(folder)}",
        base_revision=folder.manifest.source_revision,
        lora=lora,
        factors=factors,
    )


def _settings_digest(lora: Lora) -> str:
    return f"sha256:{hashlib.sha256(json.dumps(asdict(lora), sort_keys=True).encode()).hexdigest()}"


def _refuse_run_folder(path: Path, names: set[str]) -> None:
    """Raise WeightsError for a run's folder, which holds adapters but is none."""
    steps = sorted(name for name in names if name.startswith("step_"))
    inner = "adapter" if "adapter" in names else steps[-1] if steps else ""
    if inner:
        where = printable(str(path))
        fix = f"give {shlex.quote(f'{where}/{printable(inner, 80)}')}"
        raise WeightsError(Problem(where=where, message="is the folder of a run, not an adapter", fix=fix))


def _rows(matrix: NDArray[np.float32], cut: Cut) -> NDArray[np.float32]:
    return np.concatenate([matrix[run.first : run.stop] for run in cut.runs])


def _part(matrix: NDArray[np.float32], cut: Cut) -> NDArray[np.float32]:
    return _rows(matrix, cut)[:, cut.first_column : cut.stop_column]
