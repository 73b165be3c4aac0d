"""One conversation as the model takes it: token ids, labels, patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from qvl_core.errors import DataError, Problem
from qvl_core.geometry import GeometryError, tokens_of
from qvl_core.input_file import printable

from qvl_data.batching.bad_samples import UncertainError
from qvl_data.chat import ChatError, LossOn
from qvl_data.media.error import MediaError, UncertainMediaError
from qvl_data.media.facts import MediaFile
from qvl_data.media.images import ImageFacts, load_image
from qvl_data.media.video import load_video
from qvl_data.planning import PlannedSample, turns_of
from qvl_data.processor import Processor
from qvl_data.records.record import Frame


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Legend: T tokens, P patches, N images and videos. `labels` are unshifted: label i belongs to token i.

    `seconds_per_grid` is 0.0 for an image; the positions do not use it there. `frame_times` are the seconds of each
    frame of a video (empty for an image); `slice_seconds` are those at which the temporal slices of a video of variable
    frame rate start, None where the slices are evenly spaced. `features` stand in place of patches, as in a `Batch`.
    """

    sample_id: str
    input_ids: NDArray[np.int32]  # [T]
    labels: NDArray[np.int32]  # [T]
    patches: NDArray[np.float32]  # [P, patch_dim]
    grids: NDArray[np.int32]  # [N, 3]
    seconds_per_grid: NDArray[np.float64]  # [N]
    slice_seconds: tuple[NDArray[np.float64] | None, ...] = ()
    frame_times: tuple[NDArray[np.float64], ...] = field(default=())
    features: NDArray[np.generic] | None = None  # [U, E]


@dataclass(frozen=True, kw_only=True)
class MediumPatches:
    """What one medium becomes. Times are in seconds from the start of the video; empty for an image.

    With `features` there are neither patches nor frame times.
    """

    patches: NDArray[np.float32]  # [P, patch_dim]
    grid: tuple[int, int, int]
    seconds_per_grid: float = 0.0
    slice_seconds: NDArray[np.float64] | None = None
    frame_times: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    features: NDArray[np.generic] | None = None  # [U, E]


MediumLoader: TypeAlias = "Callable[[MediaFile, Processor, int | None], MediumPatches]"
"""What makes patches, or features, of a medium; the number is `max_pixels` of its sample. Raises MediaError."""


def load_medium(file: MediaFile, processor: Processor, max_pixels: int | None) -> MediumPatches:
    """Read and resize a medium. Raises MediaError if it is bad or has changed since the check, GeometryError."""
    if isinstance(file.facts, ImageFacts):
        return image_patches(load_image(file.path, file.facts), processor, max_pixels)
    found = load_video(
        file.path,
        file.facts,
        processor.videos,
        max_pixels=processor.video_limit(max_pixels),
        timeout_s=processor.video_timeout_s,
    )
    return MediumPatches(
        patches=found.patches,
        grid=found.grid,
        seconds_per_grid=found.seconds_per_grid,
        slice_seconds=found.slice_seconds,
        frame_times=found.times_s,
    )


def build_sample(
    planned: PlannedSample,
    processor: Processor,
    *,
    loss_on: LossOn,
    frame: Frame = "resized",
    load: MediumLoader = load_medium,
) -> Sample:
    """Read the media and make the sample. Raises DataError, with the record's file and line, if a file has changed."""
    record = planned.record
    media = [_load(file, planned, processor, load) for file in planned.media]
    turns = turns_of(record, planned.media, processor, frame, planned.max_pixels)
    counts = [int(count) for count in _token_counts(media, processor)]
    try:
        encoded = processor.chat.encode(turns, counts, loss_on=loss_on)
    except ChatError as error:
        raise DataError(Problem(where=record.where, message=str(error))) from None
    return assemble(record.where, encoded.input_ids, encoded.labels, media, processor)


def assemble(
    sample_id: str,
    input_ids: NDArray[np.int32],
    labels: NDArray[np.int32],
    media: Sequence[MediumPatches],
    processor: Processor,
) -> Sample:
    """Join tokens and media, in the order in which the tokens show the media, to a sample."""
    empty = np.zeros((0, processor.spec.vision.patch_dim), np.float32)
    parts = [medium.patches for medium in media]
    return Sample(
        sample_id=sample_id,
        input_ids=input_ids,
        labels=labels,
        patches=parts[0] if len(parts) == 1 else np.concatenate([empty, *parts]),
        grids=np.array([medium.grid for medium in media], np.int32).reshape(-1, 3),
        seconds_per_grid=np.array([medium.seconds_per_grid for medium in media], np.float64),
        slice_seconds=tuple(medium.slice_seconds for medium in media),
        frame_times=tuple(medium.frame_times for medium in media),
        features=joined_features([medium.features for medium in media]),
    )


def joined_features(parts: Sequence[NDArray[np.generic] | None]) -> NDArray[np.generic] | None:
    """Put features one after another; None where there are none."""
    found = [part for part in parts if part is not None]
    return np.concatenate(found) if found else None


def image_patches(image: Image.Image, processor: Processor, max_pixels: int | None = None) -> MediumPatches:
    """Give the patches of an RGB image. Raises GeometryError."""
    patches, grid = processor.images.patches(image, processor.image_limit(max_pixels))
    return MediumPatches(patches=patches, grid=grid)


def _token_counts(media: Sequence[MediumPatches], processor: Processor) -> NDArray[np.int64]:
    return tokens_of([medium.grid for medium in media], processor.spec.vision.spatial_merge_size)


def _load(file: MediaFile, planned: PlannedSample, processor: Processor, load: MediumLoader) -> MediumPatches:
    try:
        return load(file, processor, planned.max_pixels)
    except (MediaError, GeometryError) as error:
        problem = Problem(where=planned.record.where, key=printable(str(file.path)), message=str(error))
        raise (UncertainError if isinstance(error, UncertainMediaError) else DataError)(problem) from None
