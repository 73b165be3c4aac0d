"""Micro batches for the shipped layouts: one sample each, of many lengths, with images, videos or text alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from qvl_core.batch import IGNORE, Batch
from qvl_core.model.inputs import flatten_prompt
from qvl_core.specs.model_spec import ModelSpec

# What the media of consecutive samples are. Text alone comes early: some stages then have nothing to receive.
SAMPLES: dict[str, tuple[tuple[str, ...], ...]] = {
    "images": (("image",), (), ("image", "image"), ("image",)),
    "videos": (("video",), (), ("image", "video"), ("image",)),
}
# Grids in patches (time, height, width). A window is 8 x 8 patches: all but the last have several windows a frame.
IMAGE_GRIDS = ((1, 12, 10), (1, 8, 14), (1, 10, 8), (1, 6, 4))
VIDEO_GRIDS = ((2, 10, 8), (3, 4, 12), (2, 12, 10))
SECONDS_PER_FRAME = 1.0
# Below the ids of the special tokens of every narrow model.
WORDS = 400


def micro_batches(spec: ModelSpec, mix: str, count: int, seed: int) -> list[Batch]:
    """Draw `count` micro batches; the last of several has no label."""
    generator, samples = np.random.default_rng(seed), SAMPLES[mix]
    batches = [_sample(spec, samples[i % len(samples)], generator, i) for i in range(count)]
    if count > 1:
        batches[-1] = replace(batches[-1], labels=np.full_like(batches[-1].labels, IGNORE))
    return batches


def _sample(spec: ModelSpec, media: tuple[str, ...], generator: np.random.Generator, number: int) -> Batch:
    ids: list[int] = _words(generator, 3, 12)
    grids: dict[str, list[tuple[int, int, int]]] = {"image": [], "video": []}
    for i, kind in enumerate(media):
        choice = IMAGE_GRIDS if kind == "image" else VIDEO_GRIDS
        grid = choice[(number + i) % len(choice)]
        grids[kind].append(grid)
        token = spec.tokens.image if kind == "image" else spec.tokens.video
        places = grid[0] * grid[1] * grid[2] // spec.vision.merge_unit
        ids += [spec.tokens.vision_start, *[token] * places, spec.tokens.vision_end, *_words(generator, 1, 5)]
    asked = len(ids)
    ids += _words(generator, 2, 9)
    batch = flatten_prompt(
        spec,
        np.array([ids]),
        pixel_values=_patches(spec, grids["image"], generator),
        image_grid_thw=_array(grids["image"]),
        pixel_values_videos=_patches(spec, grids["video"], generator),
        video_grid_thw=_array(grids["video"]),
        second_per_grid_ts=np.full(len(grids["video"]), SECONDS_PER_FRAME) if grids["video"] else None,
    ).batch
    labels = np.full(len(ids), IGNORE, np.int32)
    # The answer follows the question: each of its tokens is the label of the one before.
    labels[asked - 1 : -1] = ids[asked:]
    return replace(batch, labels=labels, sample_ids=(f"sample {number}",))


def _words(generator: np.random.Generator, least: int, most: int) -> list[int]:
    return [int(word) for word in generator.integers(0, WORDS, int(generator.integers(least, most)))]


def _patches(
    spec: ModelSpec, grids: list[tuple[int, int, int]], generator: np.random.Generator
) -> NDArray[np.float32] | None:
    count = sum(time * height * width for time, height, width in grids)
    return generator.standard_normal((count, spec.vision.patch_dim), np.float32) if count else None


def _array(grids: list[tuple[int, int, int]]) -> NDArray[np.int64] | None:
    return np.array(grids) if grids else None
