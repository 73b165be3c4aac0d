"""Adapters in a training run: what a rank begins with, the PEFT folder at the end."""

from __future__ import annotations

import shlex
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from qvl_core.durable import remove_folder
from qvl_core.errors import Problem, WeightsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray
    from qvl_core.lora_table import Lora
    from qvl_core.parallel.world import World
    from qvl_core.recipe.schema import Recipe

    from qvl_train.checkpoint import Checkpoint

FOLDER_NAME = "adapter"


def check_adapters(start: Checkpoint, recipe: Recipe, revision: str) -> None:
    """Raise WeightsError unless a checkpoint holds this recipe's adapters, made on the base of this revision."""
    manifest = start.folder.manifest
    if manifest.lora != recipe.lora:
        message = f"holds {_adapters_text(manifest.lora)}; this run trains {_adapters_text(recipe.lora)}"
    elif recipe.lora is not None and manifest.source_revision != revision:
        made, given = manifest.source_revision[:40], revision[:40]
        message = f"holds adapters of the base {made}; weights.source is {given}, another one"
    else:
        return
    fix = "give the recipe, or the weights.source, that the run began with; or another output.dir for a new run"
    raise WeightsError(Problem(where=str(start.folder.path), message=message, fix=fix))


def with_factors(
    weights: Iterator[tuple[str, NDArray[np.float32]]], recipe: Recipe, world: World, start: Checkpoint | None
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the base's weights, then this rank's factors: from a checkpoint of adapters, or as they begin."""
    from qvl_core.parallel.stage import initial_local_factors

    from qvl_train.checkpoint import read_weights

    lora = recipe.lora
    assert lora is not None
    assert recipe.train is not None
    if start is None:
        factors = initial_local_factors(recipe.spec, lora, recipe.train.seed, world.layout, world.place)
    else:
        factors = read_weights(start, world.layout, world.place)
    return chain(weights, factors)


def export_adapter(recipe: Recipe, checkpoint: Path, run: Path) -> Path:
    """Write `adapter/` in the run's folder, in PEFT's format, from a checkpoint of any layout.

    A folder that an earlier, unfinished try of the same run left there is replaced. Raises WeightsError where bytes are
    not what was recorded.
    """
    from qvl_core.weights.peft_writer import write_peft_folder
    from qvl_core.weights.whole_tensors import open_whole_tensors

    target = run / FOLDER_NAME
    if target.exists():
        remove_folder(target)
    write_peft_folder(open_whole_tensors(checkpoint), target, base=recipe.weights.source)
    return target


def merge_advice(recipe: Recipe, adapter: Path) -> str:
    """Say how an HF folder with the adapter merged in is made; qvl-convert does it, which needs no training."""
    from qvl_core.weights.source import classify_source

    source = recipe.weights.source
    if recipe.weights.init == "random":
        return (
            "the adapter fits the random weights of this recipe's seed, which no folder holds: there is no merging it"
        )
    out = str(adapter.parent / "hf")
    merge = "qvl convert merge --base {} --adapter {} --out {}"
    if classify_source(source) == "hf":
        return "HF checkpoint with it merged in: " + merge.format(*map(shlex.quote, (source, str(adapter), out)))
    base = f"{source.rstrip('/')}-hf"
    export = f"qvl convert export --sharded {shlex.quote(source)} --out {shlex.quote(base)}"
    return f"HF checkpoint with it merged in: {export} && " + merge.format(*map(shlex.quote, (base, str(adapter), out)))


def _adapters_text(lora: Lora | None) -> str:
    if lora is None:
        return "the whole model"
    words = f"rank {lora.rank}, alpha {lora.alpha:g}, dropout {lora.dropout:g}"
    return f"adapters of {words} on {', '.join(lora.targets)} of {', '.join(lora.components)}"
