"""One rank's part of the model: its pipeline stage, cut for its place in the tensor group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvl_core.layout import Layout
from qvl_core.lora_table import Lora, adapter_table
from qvl_core.model import Qwen25VL
from qvl_core.model.initialize import initial_factor, random_tensor
from qvl_core.model.load import fill
from qvl_core.parallel.adapter_cells import insert_adapters
from qvl_core.parallel.mesh import Coordinate
from qvl_core.parallel.tensor_cells import cut_cells
from qvl_core.parallel.world import World
from qvl_core.params import parameter_table
from qvl_core.specs.model_spec import ModelSpec
from qvl_core.stage_part import stage_part
from qvl_core.weights.sharding import cut


def build_stage(
    spec: ModelSpec,
    world: World,
    weights: Iterable[tuple[str, NDArray[Any]]],
    dtype: str = "float32",
    *,
    lora: Lora | None = None,
    seed: int = 0,
) -> Qwen25VL:
    """Build what this rank holds and fill it with its (name, local array) pairs, e.g. of `weights.local_values`.

    Its parameters are the rank's rows of the parameter table in their local shapes, and with `lora` those of the
    adapter table, whose dropout draws by `seed`. Raises WeightsError if one is missing, unknown or of another shape.
    """
    model = Qwen25VL(spec, dtype, stage_part(world.layout, world.place.pp))
    cut_cells(model, world.tensor)
    if lora is not None:
        insert_adapters(model, lora, world.tensor, seed=seed)
    fill(model, weights)
    return model


def random_local_weights(
    spec: ModelSpec, seed: int, layout: Layout, place: Coordinate
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the rank's part of the weights that `random_weights` gives for the same seed, tensor by tensor."""
    for row in parameter_table(spec, layout):
        if place.pp in row.stages:
            yield row.name, cut(random_tensor(row, seed), row.shard, tp=layout.tp, rank=place.tp)


def initial_local_factors(
    spec: ModelSpec, lora: Lora, seed: int, layout: Layout, place: Coordinate
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the rank's part of the factors that new adapters begin with; the same in every layout."""
    for row in adapter_table(spec, lora, layout):
        if place.pp in row.stages:
            yield row.name, cut(initial_factor(row, seed), row.shard, tp=layout.tp, rank=place.tp)
