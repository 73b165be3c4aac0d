"""Measure a training step with and without kept vision features, and the store itself; print JSON.

    python benchmarks/vision_cache.py [--rounds 15] [--shape tiny|small]

One process takes the gradients of one micro batch alternately in three ways, vision and merger frozen: `cached` (from
known features), `uncached` (each medium by itself, as on CPU), `together` (one run of the tower over all media, as
where runs need not agree to the bit). Shape `tiny`: 16 pictures of 8 x 8 patches; `small`: one of 32 x 32 patches and
256 tokens of text. Ratios are medians of pairs of one round, with their quartiles. Reading, resizing and writing files
are not in them: what the cache saves of them is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from qvl_core.batch import Batch
    from qvl_core.specs.model_spec import ModelSpec

SHAPES = {"tiny": (16, (1, 8, 8), 20), "small": (1, (1, 32, 32), 256)}
"""Pictures in a micro batch, the grid of each, tokens of text beside each."""
STORED = 200


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Seconds."""

    wall_s: float
    cpu_s: float


def timed(call: Callable[[], object]) -> Spent:
    """Time a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return Spent(wall_s=time.perf_counter() - wall, cpu_s=time.process_time() - cpu)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Give the median and the quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": round(middle, 4), "lower": round(low, 4), "upper": round(high, 4)}


def spec_of(shape: str) -> ModelSpec:
    """Give the model."""
    if shape == "small":
        from training.shape import SMALL

        return SMALL
    from qvl_core.specs import load_spec

    return load_spec("qwen2.5-vl-tiny")


def make_batch(spec: ModelSpec, shape: str) -> Batch:
    """Make pictures of noise, each with random text behind it that is learned."""
    from qvl_core.batch import IGNORE, Batch

    count, grid, text = SHAPES[shape]
    rng = np.random.default_rng(5)
    patches = int(np.prod(grid))
    words = rng.integers(0, 400, (count, text))
    image = np.full((count, patches // spec.vision.merge_unit), spec.tokens.image)
    ids = np.concatenate([image, words], axis=1).astype(np.int32)
    labels = np.full_like(ids, IGNORE)
    labels[:, image.shape[1] - 1 : -1] = words
    positions = np.tile(np.arange(ids.shape[1], dtype=np.int32), (3, count))
    return Batch(
        input_ids=ids.reshape(-1),
        position_ids=positions,
        sequence_lengths=(ids.shape[1],) * count,
        labels=labels.reshape(-1),
        patches=rng.standard_normal((count * patches, spec.vision.patch_dim), np.float32),
        grids=np.tile(np.array(grid, np.int32), (count, 1)),
    )


def measure_steps(shape: str, rounds: int) -> dict[str, Any]:
    """Take turns."""
    from qvl_core.layout import Layout
    from qvl_core.model import Qwen25VL
    from qvl_core.model.initialize import random_weights
    from qvl_core.parallel.pipeline import Pipeline
    from qvl_core.parallel.single import SingleWorld

    spec = spec_of(shape)
    model = Qwen25VL.from_spec(spec, random_weights(spec, 1))
    model.freeze(["vision", "merger"])
    pipeline = Pipeline(model, SingleWorld(Layout.single(spec)))
    batch = make_batch(spec, shape)
    features = model.see(model.plan(batch), None)
    assert features is not None
    known = replace(batch, features=features.asnumpy(), patches=batch.patches[:0])
    weights = np.ones(len(batch.loss_rows), np.float32) / len(batch.loss_rows)
    losses: dict[str, float] = {}

    def run(way: str) -> None:
        model.runs_media_apart = way == "uncached"
        losses[way], gradients = pipeline.gradients([known if way == "cached" else batch], [weights])
        for gradient in gradients:
            gradient.asnumpy()

    ways = ("cached", "uncached", "together")
    for way in ways:
        run(way)
    found: dict[str, list[Spent]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in ways[number % 3 :] + ways[: number % 3]:
            found[way].append(timed(lambda chosen=way: run(chosen)))  # type: ignore[misc]
    pairs = {way: list(zip(found[way], found["cached"], strict=True)) for way in ("uncached", "together")}
    return {
        "media": len(batch.grids),
        "tokens": batch.tokens,
        "bytes_a_medium": known.features.nbytes // len(batch.grids),  # type: ignore[union-attr]
        "loss_equal_to_the_bit": losses["cached"] == losses["uncached"],
        "loss_of_together_differs_by": abs(losses["together"] - losses["cached"]),
        "cpu_s": {way: spread([one.cpu_s for one in found[way]]) for way in ways},
        "cpu_ratio_to_cached": {way: spread([a.cpu_s / b.cpu_s for a, b in pairs[way]]) for way in pairs},
        "wall_ratio_to_cached": {way: spread([a.wall_s / b.wall_s for a, b in pairs[way]]) for way in pairs},
    }


def measure_store(rows: int, width: int) -> dict[str, Any]:
    """Write and read files of bfloat16 as those of the 7B model; they are in the page cache when they are read."""
    from qvl_core.feature_store import FeatureStore

    numbers = np.random.default_rng(0).integers(0, 2**16, (rows, width), np.uint16)
    keys = [f"{number:064x}"[::-1] for number in range(STORED)]
    with tempfile.TemporaryDirectory() as name:
        store = FeatureStore(folder=Path(name), width=width, dtype="bfloat16")
        written = timed(lambda: [store.write(key, numbers) for key in keys])
        read = timed(lambda: [store.read(key, rows) for key in keys])
        size = store.path(keys[0]).stat().st_size
    total = STORED * size / 1024**3
    return {
        "rows": rows,
        "bytes_a_medium": size,
        "disk_bytes_a_medium": store.disk_bytes(rows),
        "write_gib_per_s": round(total / written.wall_s, 2),
        "read_and_check_gib_per_s": round(total / read.wall_s, 2),
        "read_ms_a_medium": round(1e3 * read.wall_s / STORED, 3),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--shape", choices=sorted(SHAPES), action="append", default=[])
    # `nox -s bench -- --quick` gives the same words to every script.
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_known_args()[0]
    from qvl_core import device

    device.prepare("cpu")
    shapes = chosen.shape or (["tiny"] if chosen.quick else sorted(SHAPES))
    if shapes == ["tiny"]:
        device.confine_small_model(1)
    device.require_mindspore()
    rounds = 3 if chosen.quick else chosen.rounds
    print(
        json.dumps(
            {
                "rounds": rounds,
                "steps": {shape: measure_steps(shape, rounds) for shape in shapes},
                # An image of data.image.max_pixels by default: 18 x 18 tokens of the width of the 7B model.
                "store": measure_store(324, 3584),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
