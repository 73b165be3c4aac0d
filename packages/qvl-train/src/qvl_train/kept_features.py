"""What samples read where vision features are kept: `qvl_data.vision_media.FeatureSource` over a store."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from qvl_core.feature_store import FeatureStore
from qvl_data.media.error import MediaError


class KeptFeatures:
    """What samples read. `bad` are media that could not be read when their features were to be computed.

    `times` are those of the slices of videos of variable frame rate: every rank needs them for its positions. A stage
    that places no features gets zeros of the right shape: it knows as much of its batches as the others do.
    """

    def __init__(
        self,
        store: FeatureStore,
        *,
        bad: Mapping[str, str],
        times: Mapping[str, NDArray[np.float64]],
        is_reader: bool,
    ) -> None:
        self._store = store
        self._bad = bad
        self._times = times
        self._is_reader = is_reader

    def read(self, key: str, rows: int) -> NDArray[np.generic]:
        """Give the features of a medium. Raises MediaError for a bad one, DamagedFeaturesError for a damaged file."""
        if key in self._bad:
            raise MediaError(self._bad[key])
        if not self._is_reader:
            return np.broadcast_to(np.zeros((1, 1), np.uint8), (rows, self._store.width))
        return self._store.read(key, rows, len(self._times.get(key, ()))).features

    def slice_seconds(self, key: str) -> NDArray[np.float64] | None:
        """Give when the slices of a video of variable frame rate start, None for any other medium."""
        return self._times.get(key)
