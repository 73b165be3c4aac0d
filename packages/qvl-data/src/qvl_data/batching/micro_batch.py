"""Samples to one micro batch: one after another, no padding, positions and shifted labels per sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from qvl_core.batch import IGNORE, Batch
from qvl_core.geometry import sample_positions
from qvl_core.specs.model_spec import ModelSpec

from qvl_data.samples import Sample, joined_features


def collate(samples: Sequence[Sample], spec: ModelSpec) -> Batch:
    """Give the batch of at least one sample. Positions start at 0 in each; each attends to itself only."""
    positions = [
        sample_positions(
            sample.input_ids,
            sample.grids,
            sample.seconds_per_grid,
            spec,
            sample_id=sample.sample_id,
            slice_seconds=sample.slice_seconds or None,
        )
        for sample in samples
    ]
    return Batch(
        input_ids=np.concatenate([sample.input_ids for sample in samples]),
        position_ids=np.concatenate(positions, axis=1),
        sequence_lengths=tuple(len(sample.input_ids) for sample in samples),
        labels=np.concatenate([next_token_labels(sample.labels) for sample in samples]),
        patches=np.concatenate([sample.patches for sample in samples]),
        grids=np.concatenate([sample.grids for sample in samples]),
        sample_ids=tuple(sample.sample_id for sample in samples),
        features=joined_features([sample.features for sample in samples]),
    )


def next_token_labels(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Give each token the label of the token after it, int32 [T]; the last token has none."""
    shifted = np.full(len(labels), IGNORE, np.int32)
    shifted[:-1] = labels[1:]
    return shifted
