"""Small specs, lively weights and prompts for the model and generation tests."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qvl_core.model import Qwen25VL, random_weights
from qvl_core.specs.model_spec import ModelSpec, TextSpec, TokenIds, VisionSpec

TOKENS = TokenIds(vision_start=90, vision_end=91, image=92, video=93)
PLAIN_IDS = 90

TIED = ModelSpec(
    name="small, tied",
    vision=VisionSpec(
        depth=2, hidden_size=16, num_heads=2, intermediate_size=24, out_hidden_size=24, patch_size=4,
        window_size=16, full_attention_blocks=(1,),
    ),
    text=TextSpec(
        num_layers=2, hidden_size=24, intermediate_size=40, num_heads=6, num_kv_heads=2, head_dim=4, vocab_size=96,
        tie_word_embeddings=True, mrope_section=(1, 1, 0), rope_theta=1e4,
    ),
    tokens=TOKENS,
)  # fmt: skip
UNTIED = ModelSpec(
    name="small, untied",
    vision=VisionSpec(
        depth=3, hidden_size=16, num_heads=4, intermediate_size=20, out_hidden_size=32, patch_size=2,
        spatial_merge_size=1, temporal_patch_size=1, window_size=4, full_attention_blocks=(0, 2),
    ),
    text=TextSpec(
        num_layers=3, hidden_size=32, intermediate_size=30, num_heads=4, num_kv_heads=4, head_dim=8, vocab_size=100,
        tie_word_embeddings=False, mrope_section=(2, 1, 1),
    ),
    tokens=TOKENS,
)  # fmt: skip
SPECS = (TIED, UNTIED)

Arrays = dict[str, NDArray[Any]]


def lively_weights(spec: ModelSpec, seed: int = 1) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield weights under which outputs are of order 1 and no norm or bias is trivial."""
    rng = np.random.default_rng(seed)
    for name, array in random_weights(spec, seed):
        if array.ndim == 1:
            array = (array + 0.2 * rng.standard_normal(array.shape)).astype(np.float32)
        yield name, array


@lru_cache(maxsize=4)
def lively_model(spec: ModelSpec) -> Qwen25VL:
    """Give a model that tests may read but not change."""
    return Qwen25VL.from_spec(spec, lively_weights(spec))


def image_prompt(spec: ModelSpec, height: int = 4, width: int = 3, text: int = 5, seed: int = 0) -> Arrays:
    """Give one row: two text tokens, an image of height x width merged units, `text` text tokens."""
    rng = np.random.default_rng(seed)
    merge = spec.vision.spatial_merge_size
    grid = np.array([[1, height * merge, width * merge]])
    image = [TOKENS.vision_start, *[TOKENS.image] * (height * width), TOKENS.vision_end]
    ids = [*rng.integers(0, PLAIN_IDS, 2), *image, *rng.integers(0, PLAIN_IDS, text)]
    pixels = rng.standard_normal((int(grid.prod()), spec.vision.patch_dim), np.float32)
    return {"input_ids": np.array([ids]), "pixel_values": pixels, "image_grid_thw": grid}


def text_prompt(length: int, seed: int = 0) -> Arrays:
    """Give one row of text."""
    return {"input_ids": np.random.default_rng(seed).integers(0, PLAIN_IDS, (1, length))}


def pad_together(rows: list[Arrays], side: str = "left") -> Arrays:
    """Give one padded batch of one-row prompts."""
    length = max(row["input_ids"].shape[1] for row in rows)
    ids = np.zeros((len(rows), length), np.int64)
    mask = np.zeros_like(ids)
    for number, row in enumerate(rows):
        count = row["input_ids"].shape[1]
        place = slice(length - count, length) if side == "left" else slice(0, count)
        ids[number, place], mask[number, place] = row["input_ids"][0], 1
    batch: Arrays = {"input_ids": ids, "attention_mask": mask}
    for name in ("pixel_values", "image_grid_thw"):
        arrays = [row[name] for row in rows if name in row]
        if arrays:
            batch[name] = np.concatenate(arrays)
    return batch
