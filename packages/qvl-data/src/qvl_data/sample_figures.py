"""Figures of a data set that planning wants: lengths, media, labels and frames of its samples. Nothing is decoded.

Lengths are exact. Labels are counted in some samples only, whose records are read again; they are spread evenly over
the data set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from qvl_core.errors import QvlError
from qvl_core.geometry import tokens_of
from qvl_core.planner.kept_lengths import keep_lengths

from qvl_data.chat import ChatError
from qvl_data.dataset import Dataset
from qvl_data.planning import turns_of
from qvl_data.survey.saved import CHECKPOINT_FILES

if TYPE_CHECKING:
    from qvl_core.recipe.schema import Recipe

_LOOKED_AT = 64


@dataclass(frozen=True, kw_only=True)
class PerSample:
    """Means over `looked_at` samples: tokens with a label, and images and steps in time of videos; and, of all samples,
    the most tokens of media and the most of text, which need not be one sample's."""

    looked_at: int
    labels: float
    frames: float
    longest_media: int
    longest_text: int


@dataclass(frozen=True, kw_only=True)
class DataFigures:
    """What is kept, the files that it was counted from, and paths and bytes of the media.

    Keys are those of a report of `qvl data check`.
    """

    lengths: Mapping[str, float]
    tokens: Mapping[str, int]
    per_sample: PerSample
    files: tuple[Path, ...]
    media: tuple[tuple[str, int], ...] = ()


def per_sample(data: Dataset) -> PerSample | None:
    """Give the figures; None without samples, or where a record is not what it was any more."""
    if not len(data):
        return None
    text = data.samples.text_tokens[data.rows]
    chosen = np.unique(np.linspace(0, len(data) - 1, min(_LOOKED_AT, len(data)), dtype=np.int64))
    try:
        found = [_labels_and_frames(data, index) for index in chosen.tolist()]
    except (QvlError, ChatError):
        return None
    labels, frames = np.mean(found, axis=0).tolist()
    return PerSample(
        looked_at=len(found),
        labels=labels,
        frames=frames,
        longest_media=int((data.lengths - text).max()),
        longest_text=int(text.max()),
    )


def figures_of(data: Dataset) -> DataFigures | None:
    """Give the figures of training samples; None without samples, or where a record is not what it was any more."""
    found = per_sample(data)
    if found is None:
        return None
    total, text = int(data.lengths.sum()), int(data.samples.text_tokens[data.rows].sum())
    return DataFigures(
        lengths={"mean": total / len(data), "longest": int(data.lengths.max())},
        tokens={"text": text, "all": total},
        per_sample=found,
        files=(
            *(file.path for file in data.files),
            *(data.processor.folder / name for name in CHECKPOINT_FILES),
        ),
        media=tuple(zip(data.media.path.tolist(), data.media.size.tolist(), strict=True)),
    )


def keep_figures(recipe: Recipe, found: DataFigures | None) -> Path | None:
    """Keep figures in `data.cache_dir`, for `qvl plan`; give the file."""
    if found is None:
        return None
    values = {"lengths": found.lengths, "tokens": found.tokens, "per_sample": asdict(found.per_sample)}
    return keep_lengths(recipe, found.files, values, found.media)


def _labels_and_frames(data: Dataset, index: int) -> tuple[int, int]:
    planned, processor = data.planned(index), data.processor
    grids = [processor.grid(file.facts, planned.max_pixels) for file in planned.media]
    counts = tokens_of(grids, processor.spec.vision.spatial_merge_size).tolist() if grids else []
    turns = turns_of(planned.record, planned.media, processor, data.frame, planned.max_pixels)
    labels = processor.chat.encode(turns, counts, loss_on=data.loss_on).labels
    return int((labels >= 0).sum()), sum(grid[0] for grid in grids)
