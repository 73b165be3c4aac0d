"""A batch states which rows have a loss, and refuses to be inconsistent."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from qvl_core.batch import IGNORE, Batch

BATCH = Batch(
    input_ids=np.arange(4, dtype=np.int32),
    position_ids=np.zeros((3, 4), np.int32),
    sequence_lengths=(1, 3),
    labels=np.array([IGNORE, 2, IGNORE, 0], np.int32),
    patches=np.zeros((4, 6), np.float32),
    grids=np.array([[1, 2, 2]], np.int32),
)


def test_loss_rows_are_the_labelled_ones() -> None:
    assert BATCH.loss_rows.tolist() == [1, 3]
    assert BATCH.tokens == 4


def test_without_labels_there_is_one_ignored_row() -> None:
    batch = dataclasses.replace(BATCH, labels=np.full(4, IGNORE, np.int32))
    assert batch.loss_rows.tolist() == [0]
    assert batch.labels[batch.loss_rows].tolist() == [IGNORE]


def test_features_stand_in_place_of_patches_that_are_still_counted() -> None:
    known = dataclasses.replace(BATCH, patches=BATCH.patches[:0], features=np.zeros((1, 8), np.float32))
    assert known.grid_patches == BATCH.grid_patches == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position_ids": np.zeros((3, 5), np.int32)}, "position_ids"),
        ({"labels": np.zeros(3, np.int32)}, "labels"),
        ({"sequence_lengths": (4, 1)}, "segments"),
        ({"patches": np.zeros((3, 6), np.float32)}, "3 patches, the grids say 4"),
        ({"grids": np.ones(3, np.int32)}, "grids"),
        ({"features": np.zeros((1, 8), np.float32)}, "4 patches beside features"),
    ],
)
def test_parts_that_do_not_fit_together_are_our_own_bug(change: dict, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        dataclasses.replace(BATCH, **change)
