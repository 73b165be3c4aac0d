"""One conversation as the model takes it: token ids, labels, patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from qvl_core.errors import DataError, Problem
from qvl_core.geometry import GeometryError, tokens_of
from qvl_core.input_file import printable

from qvl_data.chat import ChatError, LossOn
from qvl_data.media.features import FeatureKeys, KnownFeatures
from qvl_data.media.images import ImageError, ImageFacts, load_image
from qvl_data.processor import Processor
from qvl_data.records.record import Record


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Legend: T tokens, P patches, N images (videos later). `labels` are unshifted: label i belongs to token i.

    `seconds_per_grid` is 0.0 for an image; the positions do not use it there. `features` stand in place of patches, as
    in a `Batch`.
    """

    sample_id: str
    input_ids: NDArray[np.int32]  # [T]
    labels: NDArray[np.int32]  # [T]
    patches: NDArray[np.float32]  # [P, patch_dim]
    grids: NDArray[np.int32]  # [N, 3]
    seconds_per_grid: NDArray[np.float64]  # [N]
    features: NDArray[np.generic] | None = None  # [U, E]


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


def build_sample(
    planned: PlannedSample, processor: Processor, *, loss_on: LossOn, known: KnownFeatures | None = None
) -> Sample:
    """Read the images and make the sample. Raises DataError, with the record's file and line, if a file has changed.

    With `known` features no image is opened.
    """
    record = planned.record
    media = range(len(planned.media))
    merge = processor.spec.vision.spatial_merge_size
    try:
        grids = np.array([medium_grid(planned, number, processor) for number in media], np.int32).reshape(-1, 3)
        counts = tokens_of(grids, merge).tolist()
        encoded = processor.chat.encode(record.turns, counts, loss_on=loss_on)
    except (GeometryError, ChatError) as error:
        raise DataError(Problem(where=record.where, message=str(error))) from None
    features, patches = None, [np.zeros((0, processor.spec.vision.patch_dim), np.float32)]
    if known is None:
        patches += [medium_patches(planned, number, processor) for number in media]
    elif len(media):
        features = _read_features(planned, processor, known, counts)
    return Sample(
        sample_id=record.where,
        input_ids=encoded.input_ids,
        labels=encoded.labels,
        patches=patches[-1] if len(patches) <= 2 else np.concatenate(patches),
        grids=grids,
        seconds_per_grid=np.zeros(len(grids)),
        features=features,
    )


def medium_grid(planned: PlannedSample, number: int, processor: Processor) -> tuple[int, int, int]:
    """Give the grid (t, h, w) in patches of a medium of a sample, from what the check found. Raises GeometryError."""
    facts = planned.media[number].facts
    return processor.images.grid(facts.height, facts.width, planned.max_pixels)


def medium_patches(planned: PlannedSample, number: int, processor: Processor) -> NDArray[np.float32]:
    """Read and resize a medium of a sample: float32 [P, patch_dim]. Raises DataError if its file has changed."""
    file, where = planned.media[number], planned.record.where
    try:
        image = load_image(file.path, file.facts)
    except ImageError as error:
        raise DataError(Problem(where=where, key=printable(str(file.path)), message=str(error))) from None
    return processor.images.patches(image, planned.max_pixels)[0]


def medium_key(planned: PlannedSample, number: int, processor: Processor, keys: FeatureKeys) -> str:
    """Name what the vision tower reads of a medium of a sample."""
    return keys.image(planned.media[number].facts.digest, medium_grid(planned, number, processor))


def _read_features(
    planned: PlannedSample, processor: Processor, known: KnownFeatures, rows: Sequence[int]
) -> NDArray[np.generic]:
    """Give the features of a sample's media one after another. A DataError of the source gets the record's place."""
    keys = [medium_key(planned, number, processor, known.keys) for number in range(len(rows))]
    try:
        found = [known.source.read(key, count) for key, count in zip(keys, rows, strict=True)]
    except DataError as error:
        raise DataError([replace(problem, where=planned.record.where) for problem in error.problems]) from None
    return found[0] if len(found) == 1 else np.concatenate(found)


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
