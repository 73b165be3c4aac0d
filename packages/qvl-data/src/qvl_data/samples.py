"""One conversation as the model takes it: token ids, labels, patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from qvl_core.errors import DataError, Problem
from qvl_core.geometry import GeometryError, tokens_of
from qvl_core.input_file import printable

from qvl_data.chat import ChatError, LossOn
from qvl_data.media.images import ImageError, ImageFacts, load_image
from qvl_data.processor import Processor
from qvl_data.records.record import Record


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Legend: T tokens, P patches, N images (videos later). `labels` are unshifted: label i belongs to token i.

    `seconds_per_grid` is 0.0 for an image; the positions do not use it there.
    """

    sample_id: str
    input_ids: NDArray[np.int32]  # [T]
    labels: NDArray[np.int32]  # [T]
    patches: NDArray[np.float32]  # [P, patch_dim]
    grids: NDArray[np.int32]  # [N, 3]
    seconds_per_grid: NDArray[np.float64]  # [N]


@dataclass(frozen=True, kw_only=True)
class MediaFile:
    """An image of a record: the path as the record writes it, the file it means, and what the check found."""

    written: str
    path: Path
    facts: ImageFacts


@dataclass(frozen=True, kw_only=True)
class PlannedSample:
    """A record whose media were checked. `tokens` is its length; `max_pixels` is set where images were shrunk."""

    record: Record
    media: tuple[MediaFile, ...]
    tokens: int
    max_pixels: int | None = None


def build_sample(planned: PlannedSample, processor: Processor, *, loss_on: LossOn) -> Sample:
    """Read the images and make the sample. Raises DataError, with the record's file and line, if a file has changed."""
    record = planned.record
    images = []
    for file in planned.media:
        try:
            images.append(load_image(file.path, file.facts))
        except ImageError as error:
            raise DataError(Problem(where=record.where, key=printable(str(file.path)), message=str(error))) from None
    try:
        patches, grids = patches_of(images, processor, max_pixels=planned.max_pixels)
        counts = tokens_of(grids, processor.spec.vision.spatial_merge_size).tolist()
        encoded = processor.chat.encode(record.turns, counts, loss_on=loss_on)
    except (GeometryError, ChatError) as error:
        raise DataError(Problem(where=record.where, message=str(error))) from None
    return Sample(
        sample_id=record.where,
        input_ids=encoded.input_ids,
        labels=encoded.labels,
        patches=patches,
        grids=grids,
        seconds_per_grid=np.zeros(len(grids)),
    )


def patches_of(
    images: Sequence[Image.Image], processor: Processor, *, max_pixels: int | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Give the patches, float32 [P, patch_dim], and grids, int32 [N, 3], of RGB images. Raises GeometryError."""
    if not images:
        empty = np.zeros((0, processor.spec.vision.patch_dim), np.float32)
        return empty, np.zeros((0, 3), np.int32)
    parts = [processor.images.patches(image, max_pixels) for image in images]
    patches = parts[0][0] if len(parts) == 1 else np.concatenate([patches for patches, _ in parts])
    return patches, np.array([grid for _, grid in parts], np.int32)
