"""Training from vision features that are known: every medium of a run once, and samples that carry features.

Nothing here computes features or knows where they are kept. With them no image or video is opened when a sample is
made: sizes come from the check before the run, which has read each file's content for its digest.

Legend: N samples, M media, U merged units, E text width.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from qvl_core.input_file import printable

from qvl_data.media.facts import MediaFile
from qvl_data.media.features import FeatureKeys
from qvl_data.media.video_facts import VideoFacts
from qvl_data.processor import Processor
from qvl_data.samples import MediumPatches, load_medium
from qvl_data.streaming.stream_items import Stream

if TYPE_CHECKING:
    from qvl_data.dataset import Dataset
    from qvl_data.preparation import PreparedData


class FeatureSource(Protocol):
    """Where features come from. Called in data threads; raises MediaError for a medium that it has none of."""

    def read(self, key: str, rows: int) -> NDArray[np.generic]:
        """Give the features of a medium, [U, E], in window order."""
        ...

    def slice_seconds(self, key: str) -> NDArray[np.float64] | None:
        """Give when the temporal slices of a video of variable frame rate start, which only its decoding has told."""
        ...


class MediaNames:
    """Names what the vision tower reads of a medium, and knows its size and times as far as its facts tell them."""

    def __init__(self, processor: Processor) -> None:
        self._processor = processor
        self._keys = FeatureKeys(processor.spec.vision, processor.images.levels)

    def name(self, file: MediaFile, max_pixels: int | None) -> tuple[str, MediumPatches]:
        """Give the key, and the medium without patches. `max_pixels` is that of its sample. Raises GeometryError."""
        processor, facts = self._processor, file.facts
        empty = np.zeros((0, processor.spec.vision.patch_dim), np.float32)
        if isinstance(facts, VideoFacts):
            plan = processor.videos.plan(facts, processor.video_limit(max_pixels))
            bare = MediumPatches(patches=empty, grid=plan.grid, seconds_per_grid=plan.seconds_per_grid)
            return self._keys.video(facts.digest, plan.grid, plan.indices), bare
        grid = processor.images.grid(facts.height, facts.width, processor.image_limit(max_pixels))
        return self._keys.image(facts.digest, grid), MediumPatches(patches=empty, grid=grid)


class KnownMedia:
    """Brings features in place of patches: what `Dataset.load` is for a run with known features."""

    def __init__(self, names: MediaNames, source: FeatureSource) -> None:
        self._names = names
        self._source = source

    def __call__(self, file: MediaFile, processor: Processor, max_pixels: int | None) -> MediumPatches:
        """Give a medium with features and without patches. Raises MediaError, or the source's error."""
        key, bare = self._names.name(file, max_pixels)
        rows = int(np.prod(bare.grid)) // processor.spec.vision.merge_unit
        return replace(
            bare,
            features=self._source.read(key, rows),
            slice_seconds=self._source.slice_seconds(key) if _is_variable(file) else None,
        )


@dataclass(frozen=True, kw_only=True)
class VisionMedia:
    """The media of a run that the vision tower reads, each once, in the order in which samples show them.

    The same on every rank: the data is. `times` counts the slices of videos of variable frame rate, which have times of
    their own that only decoding tells; 0 for all other media.
    """

    keys: tuple[str, ...]
    grids: NDArray[np.int32]  # [M, 3]
    rows: NDArray[np.int64]  # [M] merged units
    times: NDArray[np.int64]  # [M]
    places: tuple[tuple[Dataset, int, MediaFile, int | None], ...] = field(repr=False)
    """Of each: data set and number of its first sample, file, `max_pixels` there."""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def patch_dim(self) -> int:
        """Count the numbers in a patch."""
        return self.places[0][0].processor.spec.vision.patch_dim

    def where(self, number: int) -> str:
        """Name the record of a medium's first sample, file and line."""
        dataset, sample, _, _ = self.places[number]
        return dataset.where(sample)

    def path(self, number: int) -> str:
        """Give the file of a medium, printable."""
        return printable(str(self.places[number][2].path))

    def load(self, number: int) -> MediumPatches:
        """Read and resize a medium. Raises MediaError if its file has changed or is bad."""
        dataset, _, file, max_pixels = self.places[number]
        return load_medium(file, dataset.processor, max_pixels)


def list_media(data: PreparedData) -> VisionMedia:
    """List what the samples of training and validation show, each medium under its name once. Not for a stream."""
    assert not isinstance(data.train, Stream), "nobody knows the media of a stream"
    names = MediaNames(data.processor)
    found: dict[str, tuple[Dataset, int, MediaFile, int | None]] = {}
    grids: list[tuple[int, int, int]] = []
    for dataset in (data.train, data.validation):
        for sample, number, limit in _shown(dataset) if dataset is not None else ():
            assert dataset is not None
            file = dataset.media.file(number)
            key, bare = names.name(file, limit or None)
            if key not in found:
                found[key] = (dataset, sample, file, limit or None)
                grids.append(bare.grid)
    grids_M3 = np.array(grids, np.int32).reshape(-1, 3)
    is_variable = np.array([_is_variable(file) for _, _, file, _ in found.values()], np.bool_)
    return VisionMedia(
        keys=tuple(found),
        grids=grids_M3,
        rows=grids_M3.astype(np.int64).prod(axis=1) // data.processor.spec.vision.merge_unit,
        times=np.where(is_variable, grids_M3[:, 0], 0).astype(np.int64),
        places=tuple(found.values()),
    )


def with_features(data: PreparedData, source: FeatureSource) -> PreparedData:
    """Give the same data, whose samples carry the features of `source` in place of patches."""
    assert not isinstance(data.train, Stream), "nobody knows the media of a stream"
    known = KnownMedia(MediaNames(data.processor), source)
    validation = data.validation
    return replace(
        data,
        train=replace(data.train, load=known),
        validation=None if validation is None else replace(validation, load=known),
    )


def _is_variable(file: MediaFile) -> bool:
    return isinstance(file.facts, VideoFacts) and file.facts.is_variable


def _shown(dataset: Dataset) -> list[list[int]]:
    """List each medium under each `max_pixels` once: [first sample, number of the medium, max_pixels or 0]."""
    table, rows = dataset.samples, dataset.rows
    counts = table.media_counts()[rows]
    starts = (table.media_end - table.media_counts())[rows]
    inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    numbers = table.media_numbers[np.repeat(starts, counts) + inside].astype(np.int64)
    limits = np.repeat(table.max_pixels[rows], counts)
    samples = np.repeat(np.arange(len(rows)), counts)
    _, first = np.unique(np.stack([numbers, limits], axis=1), axis=0, return_index=True)
    return np.stack([samples, numbers, limits], axis=1)[np.sort(first)].tolist()
