"""One micro batch, flattened: what data code hands to the model. numpy only; no padding inside.

Legend: T tokens, P patches, N images and videos, U merged units, E text width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# The label of a token that takes no part in the loss; the value is that of the HF processors.
IGNORE = -100


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples one after another. `labels` belong to the NEXT token: they are already shifted inside each sample.

    `patches` are the flattened patches of images and videos in the order in which their tokens appear in `input_ids`
    (shape [0, patch_dim] where there are none), `grids` their time, height, width in patches.

    `features` may stand in their place: the merger's output for the same media, known from before (`feature_store`),
    the rows of each in its window order. bfloat16 ones are bit patterns in uint16: numpy has no bfloat16.
    """

    input_ids: NDArray[np.int32]  # [T]
    position_ids: NDArray[np.int32]  # [3, T] time, height, width
    sequence_lengths: tuple[int, ...]  # attention segments of the text; they add up to T
    labels: NDArray[np.int32]  # [T]
    patches: NDArray[np.float32]  # [P, patch_dim]
    grids: NDArray[np.int32]  # [N, 3]
    sample_ids: tuple[str, ...] = field(default=())
    features: NDArray[np.generic] | None = None  # [U, E]

    def __post_init__(self) -> None:
        tokens = len(self.input_ids)
        assert self.position_ids.shape == (3, tokens), f"position_ids {self.position_ids.shape} for {tokens} tokens"
        assert self.labels.shape == (tokens,), f"labels {self.labels.shape} for {tokens} tokens"
        assert sum(self.sequence_lengths) == tokens, f"segments {self.sequence_lengths} for {tokens} tokens"
        assert self.grids.shape == (len(self.grids), 3), f"grids of shape {self.grids.shape}"
        assert self.features is None or not len(self.patches), f"{len(self.patches)} patches beside features"
        patches = self.grid_patches if self.features is None else 0
        assert len(self.patches) == patches, f"{len(self.patches)} patches, the grids say {patches}"

    @property
    def tokens(self) -> int:
        """Count the tokens, T."""
        return len(self.input_ids)

    @property
    def grid_patches(self) -> int:
        """Count the patches of all media, also where their features are here in place of them."""
        return int(self.grids.astype(np.int64).prod(axis=1).sum())

    @property
    def loss_rows(self) -> NDArray[np.int32]:
        """Give the positions that have a label; position 0, whose label is IGNORE, where none has.

        The one dummy row keeps every later shape non-empty; its loss and its gradient are exactly 0.
        """
        rows = np.flatnonzero(self.labels != IGNORE).astype(np.int32)
        return rows if len(rows) else np.zeros(1, np.int32)
