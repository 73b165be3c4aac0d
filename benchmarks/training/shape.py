"""What both sides get: the shape `small`, its weights, and one sample. numpy only, so that either side reads it alone.

Weights and gradients travel in one flat fp32 file each, in the order of the parameter table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from qvl_core.batch import IGNORE
from qvl_core.params import parameter_table
from qvl_core.specs.model_spec import ModelSpec, TextSpec, VisionSpec

SMALL = ModelSpec(
    name="small",
    vision=VisionSpec(
        depth=8, hidden_size=256, num_heads=4, intermediate_size=684, out_hidden_size=384, full_attention_blocks=(3, 7),
    ),
    text=TextSpec(
        num_layers=12, hidden_size=384, intermediate_size=1536, num_heads=6, num_kv_heads=2, head_dim=64,
        vocab_size=151936, tie_word_embeddings=True, mrope_section=(8, 12, 12),
    ),
)  # fmt: skip
# 448 x 448 pixels in patches of 14.
GRID = (1, 32, 32)
TEXT_TOKENS = 256

Labels = Literal["text", "all"]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample under HF's names; `labels` are not shifted, as HF takes them."""

    input_ids: NDArray[np.int64]  # [1, T]
    mm_token_type_ids: NDArray[np.int64]  # [1, T]
    labels: NDArray[np.int64]  # [1, T]
    pixel_values: NDArray[np.float32]  # [P, numbers in a patch]
    image_grid_thw: NDArray[np.int64]  # [1, 3]


def make_sample(spec: ModelSpec, labels: Labels) -> Sample:
    """Give a picture of noise between its two border tokens and random text; `labels` on the text tokens or on all."""
    rng = np.random.default_rng(5)
    patches = int(np.prod(GRID))
    pictured = patches // spec.vision.merge_unit
    text = rng.integers(0, spec.tokens.vision_start, TEXT_TOKENS - 2)
    ids = np.concatenate(
        ([spec.tokens.vision_start], [spec.tokens.image] * pictured, [spec.tokens.vision_end], text)
    ).astype(np.int64)[None]
    is_image = ids == spec.tokens.image
    return Sample(
        input_ids=ids,
        mm_token_type_ids=is_image.astype(np.int64),
        labels=np.where(is_image & (labels == "text"), IGNORE, ids),
        pixel_values=rng.standard_normal((patches, spec.vision.patch_dim), np.float32),
        image_grid_thw=np.array([GRID], np.int64),
    )


def write_weights(spec: ModelSpec, path: Path) -> None:
    """Write weights that keep activations of order 1, with norms off 1 and biases off 0."""
    with path.open("wb") as file:
        for row in parameter_table(spec):
            seed = list(hashlib.sha256(row.name.encode()).digest())
            normal = np.random.default_rng(seed).standard_normal(row.shape, np.float32)
            if row.name.endswith(".bias"):
                values = 0.1 * normal
            elif len(row.shape) == 1:
                values = 1.0 + 0.1 * normal
            else:
                values = normal / np.sqrt(np.prod(row.shape[1:]))
            file.write(values.astype(np.float32).tobytes())


def read_tensors(spec: ModelSpec, path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield (name, array) of a file of all parameters."""
    flat = np.memmap(path, np.float32, "r")
    start = 0
    for row in parameter_table(spec):
        size = int(np.prod(row.shape))
        yield row.name, flat[start : start + size].reshape(row.shape)
        start += size
    assert start == len(flat), f"{path.name} holds {len(flat)} numbers, the table has {start}"


def write_tensors(spec: ModelSpec, path: Path, tensors: dict[str, NDArray[np.float32]]) -> None:
    """Write the file that `read_tensors` reads; what is not in `tensors` (frozen) is NaN."""
    with path.open("wb") as file:
        for row in parameter_table(spec):
            found = tensors.get(row.name)
            values = np.full(row.shape, np.nan, np.float32) if found is None else found
            assert tuple(values.shape) == tuple(row.shape), f"{row.name}: {values.shape} instead of {row.shape}"
            file.write(np.ascontiguousarray(values, np.float32).tobytes())


def trained_names(spec: ModelSpec, frozen: Sequence[str]) -> list[str]:
    """List the parameters outside of the frozen components."""
    return [row.name for row in parameter_table(spec) if row.component not in frozen]
