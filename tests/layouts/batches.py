"""The micro batches of a case: small samples that follow a rule, so that a loss can fall in twenty steps. numpy only.

Samples differ in length and in their number of image or video tokens; every micro batch depends on its own seed alone,
so that a step has the same samples however many replicas share them.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
from cases import Case, Mix
from numpy.typing import NDArray
from qvl_core.batch import IGNORE, Batch
from qvl_core.specs.model_spec import ModelSpec
from qvl_data import Sample, collate
from specs import SPECS

_ALPHABET = 24


def micro_batches(case: Case, step: int, replica: int | None = None) -> list[Batch]:
    """Give the micro batches of a step (from 1): all, or those of a replica, dealt out as `qvl_data.batches` does."""
    spec = SPECS[case.spec]
    own = range(case.micro_batches) if replica is None else range(replica, case.micro_batches, case.dp)
    return [_micro_batch(spec, case.mix, number, case.micro_batches, step) for number in own]


def _micro_batch(spec: ModelSpec, mix: Mix, number: int, count: int, step: int) -> Batch:
    seed = zlib.crc32(f"{spec.name} {mix} {step} {number}".encode())
    rng = np.random.default_rng(seed)
    kinds = _kinds(mix, number, count, step)
    batch = collate([_sample(spec, kind, f"{step}/{number}/{i}", rng) for i, kind in enumerate(kinds)], spec)
    if mix == "unlabelled" and number == min(1, count - 1):
        return replace(batch, labels=np.full_like(batch.labels, IGNORE))
    return batch


def _kinds(mix: Mix, number: int, count: int, step: int) -> tuple[str, ...]:
    """Name what the samples of a micro batch hold; each one of a kind that the mix allows, not all alike."""
    if mix == "text":
        return ("text", "text") if number % 2 else ("text",)
    if mix == "sparse":
        # One image in the whole step: all replicas but one, all micro batches but one have none.
        return ("image",) if number == step % count else ("text",)
    turn = (number + step) % 4
    if mix == "images":
        return ("image", "image") if turn == 0 else ("image",)
    if mix == "videos":
        return ("video", "text") if turn == 0 else ("video",)
    return (("image", "text"), ("video",), ("text",), ("two images",))[(number + step - 1) % 4]


def _sample(spec: ModelSpec, kind: str, name: str, rng: np.random.Generator) -> Sample:
    """Give one sample; what stands before the answer is not learned."""
    grids = {"text": [], "image": ["image"], "two images": ["image", "image"], "video": ["video"]}[kind]
    ids = _words(rng, int(rng.integers(2, 5)))
    shapes: list[tuple[int, int, int]] = []
    merge = spec.vision.spatial_merge_size
    for medium in grids:
        time = 1 if medium == "image" else int(rng.integers(2, 4))
        height, width = (int(size) for size in rng.integers(1, 4 if medium == "image" else 3, 2))
        shapes.append((time, height * merge, width * merge))
        token = spec.tokens.image if medium == "image" else spec.tokens.video
        ids += [spec.tokens.vision_start, *[token] * (time * height * width), spec.tokens.vision_end]
    asked = len(ids)
    ids += _words(rng, int(rng.integers(3, 9)))
    labels = np.array(ids, np.int32)
    labels[:asked] = IGNORE
    patches = sum(int(np.prod(shape)) for shape in shapes)
    return Sample(
        sample_id=name,
        input_ids=np.array(ids, np.int32),
        labels=labels,
        patches=rng.standard_normal((patches, spec.vision.patch_dim)).astype(np.float32),
        grids=np.array(shapes, np.int32).reshape(-1, 3),
        seconds_per_grid=np.where([grid == "video" for grid in grids], 1.0, 0.0) if grids else _no_seconds(),
    )


def _words(rng: np.random.Generator, count: int) -> list[int]:
    words = [int(rng.integers(_ALPHABET))]
    while len(words) < count:
        words.append((5 * words[-1] + 3) % _ALPHABET)
    return words


def _no_seconds() -> NDArray[np.float64]:
    return np.zeros(0, np.float64)
