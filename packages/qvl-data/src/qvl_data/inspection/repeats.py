"""Records that occur more than once, found by their digests: no text is compared, none is kept.

Legend: N samples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from qvl_core.errors import Problem

from qvl_data.dataset import Dataset
from qvl_data.inspection.kinds import ProblemGroup

_KEY_BYTES = 8


def content_keys(data: Dataset) -> NDArray[np.uint64]:
    """Give uint64 [N, 3] that two samples share if their messages, media paths and the bytes of their media are equal.

    The bytes count because two sources may have other files under the same names.
    """
    samples, media = data.samples, data.media
    of_record = np.ascontiguousarray(samples.digest).view(np.uint64).reshape(len(samples), 2)
    of_file = np.array([int(digest[: 2 * _KEY_BYTES], 16) for digest in media.digest], np.uint64)
    counts = samples.media_counts()
    places = np.arange(len(samples.media_numbers)) - np.repeat(samples.media_end - counts, counts)
    # Weighted by place, so that the same files in another order differ; sums wrap around, which is fine for a key.
    weighted = of_file[samples.media_numbers] * (2 * places + 1).astype(np.uint64)
    totals = np.concatenate([np.zeros(1, np.uint64), np.cumsum(weighted, dtype=np.uint64)])
    of_media = totals[samples.media_end] - totals[samples.media_end - counts]
    return np.column_stack([of_record, of_media])[data.rows]


def repeated(keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give the numbers of the rows of [N, 3] that occurred before, rising, and for each where it occurred first."""
    order = np.lexsort(keys.T)
    ordered = keys[order]
    is_same = np.concatenate([np.zeros(min(1, len(keys)), bool), (ordered[1:] == ordered[:-1]).all(axis=1)])
    # lexsort is stable: the first of equal rows is the one with the smallest number.
    starts = np.maximum.accumulate(np.where(is_same, 0, np.arange(len(keys))))
    again, first = order[is_same], order[starts[is_same]]
    rising = np.argsort(again)
    return again[rising], first[rising]


def duplicate_group(train: Dataset, shown: int) -> ProblemGroup:
    """Give the training samples that an earlier one equals: they count more than once in each epoch."""
    again, first = repeated(content_keys(train))
    return _group("duplicate", "is the same as", again, train.where, first, train.where, shown)


def leak_group(train: Dataset, validation: Dataset, shown: int) -> ProblemGroup:
    """Give the validation samples that training uses too: the validation loss of these says nothing."""
    keys = content_keys(train)
    again, first = repeated(np.concatenate([keys, content_keys(validation)]))
    is_leak = (again >= len(keys)) & (first < len(keys))
    held = again[is_leak] - len(keys)
    return _group("leak", "is trained on as", held, validation.where, first[is_leak], train.where, shown)


def _group(
    kind: str,
    words: str,
    places: NDArray[np.int64],
    where: Callable[[int], str],
    others: NDArray[np.int64],
    other: Callable[[int], str],
    shown: int,
) -> ProblemGroup:
    examples = tuple(
        Problem(
            where=where(place),
            message=f"{words} {other(first)}: the same messages and media",
            severity="warning",
        )
        for place, first in zip(places[:shown].tolist(), others[:shown].tolist(), strict=True)
    )
    return ProblemGroup(kind=kind, count=len(places), examples=examples, is_error=False)
