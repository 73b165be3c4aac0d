"""Training from vision features that are known: every medium of a run once, and samples that carry features.

Nothing here computes features or knows where they are kept. With them no image or video is opened when a sample is
made: sizes come from the check before the run, which has read each file's content for its digest.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qvl_data.media.features import FeatureKeys, FeatureSource, KnownFeatures
from qvl_data.samples import medium_grid, medium_key, medium_patches

if TYPE_CHECKING:
    from qvl_data.dataset import Dataset, PreparedData


@dataclass(frozen=True, kw_only=True)
class VisionMedia:
    """The media of a run that the vision tower reads, each once, in the order of their first samples.

    `grids` is int32 [M, 3]. The same on every rank: the data is.
    """

    keys: tuple[str, ...]
    grids: NDArray[np.int32]
    places: tuple[tuple[Dataset, int, int], ...] = field(repr=False)
    """Where each is met first: data set, number of the sample in it, number of the medium in the sample."""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def patch_dim(self) -> int:
        """Count the numbers in a patch."""
        return self.places[0][0].processor.spec.vision.patch_dim

    def where(self, number: int) -> str:
        """Name the record of a medium's first sample, file and line."""
        dataset, sample, _ = self.places[number]
        return dataset.planned[sample].record.where

    def patches(self, number: int) -> NDArray[np.float32]:
        """Read and resize a medium: float32 [P, patch_dim]. Raises DataError if its file has changed or is bad."""
        dataset, sample, medium = self.places[number]
        return medium_patches(dataset.planned[sample], medium, dataset.processor)


def list_media(data: PreparedData) -> VisionMedia:
    """List what the samples of training and validation have, each medium under its name once."""
    keys = _keys(data)
    found: dict[str, tuple[Dataset, int, int]] = {}
    grids: list[tuple[int, int, int]] = []
    for dataset in (data.train, data.validation):
        for number, planned in enumerate(dataset.planned if dataset is not None else ()):
            for medium in range(len(planned.media)):
                key = medium_key(planned, medium, data.processor, keys)
                if key not in found:
                    assert dataset is not None
                    found[key] = (dataset, number, medium)
                    grids.append(medium_grid(planned, medium, data.processor))
    return VisionMedia(keys=tuple(found), grids=np.array(grids, np.int32).reshape(-1, 3), places=tuple(found.values()))


def with_features(data: PreparedData, source: FeatureSource) -> PreparedData:
    """Give the same data, whose samples carry the features of `source` in place of patches."""
    known = KnownFeatures(keys=_keys(data), source=source)
    validation = data.validation
    return replace(
        data,
        train=replace(data.train, features=known),
        validation=None if validation is None else replace(validation, features=known),
    )


def _keys(data: PreparedData) -> FeatureKeys:
    rules = data.processor.images
    return FeatureKeys(rules.vision, rules.levels)
