"""Prompts of one sample each: joined to a flat batch, taken apart from one, and where answers begin. numpy only.

Legend: T tokens, N images and videos.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qvl_core.batch import Batch
from qvl_core.specs.model_spec import ModelSpec, PositionRule


def join_prompts(prompts: Sequence[Batch]) -> Batch:
    """Give one flat batch of prompts; each is attended for itself."""
    if len(prompts) == 1:
        return prompts[0]
    assert all(prompt.features is None for prompt in prompts), "features computed before are for training only"
    return Batch(
        input_ids=np.concatenate([prompt.input_ids for prompt in prompts]),
        position_ids=np.concatenate([prompt.position_ids for prompt in prompts], axis=1),
        sequence_lengths=tuple(length for prompt in prompts for length in prompt.sequence_lengths),
        labels=np.concatenate([prompt.labels for prompt in prompts]),
        patches=np.concatenate([prompt.patches for prompt in prompts]),
        grids=np.concatenate([prompt.grids for prompt in prompts]),
    )


def split_prompts(batch: Batch, spec: ModelSpec) -> list[Batch]:
    """Give each sequence of a flat batch as a batch of its own, with the images and videos of its tokens."""
    ends_T = np.cumsum(batch.sequence_lengths)
    is_medium_T = (batch.input_ids == spec.tokens.image) | (batch.input_ids == spec.tokens.video)
    patches_N = batch.grids.astype(np.int64).prod(axis=1)
    # A medium belongs to the sequence in which its features end.
    features_N = np.cumsum(patches_N // spec.vision.merge_unit)
    patch_ends_N = np.cumsum(patches_N)
    parts: list[Batch] = []
    token = medium = patch = 0
    for end in ends_T:
        last = int(np.searchsorted(features_N, is_medium_T[:end].sum(), side="right"))
        last_patch = int(patch_ends_N[last - 1]) if last else 0
        part = Batch(
            input_ids=batch.input_ids[token:end],
            position_ids=batch.position_ids[:, token:end],
            sequence_lengths=(int(end - token),),
            labels=batch.labels[token:end],
            patches=batch.patches[patch:last_patch],
            grids=batch.grids[medium:last],
        )
        parts.append(part)
        token, medium, patch = int(end), last, last_patch
    return parts


def next_positions(prompt: Batch, rule: PositionRule) -> NDArray[np.int32]:
    """Give the positions [3] that the first new token of a one-sample prompt gets.

    One after the largest, or ("transformers5") one after the last token's: text behind a video may stand before the
    video's last slice there, and `generate` of that library goes on from it.
    """
    if rule == "transformers5":
        return (prompt.position_ids[:, -1] + 1).astype(np.int32)
    return np.full(3, prompt.position_ids.max() + 1, np.int32)
