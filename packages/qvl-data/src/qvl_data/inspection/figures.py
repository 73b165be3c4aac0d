"""Arrays of samples to the figures of a report. Lengths are in tokens. Legend: N samples, M media."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from qvl_core.geometry import tokens_of

from qvl_data.batching.item_source import indexed_items
from qvl_data.dataset import Dataset
from qvl_data.index import MediaTable
from qvl_data.inspection.report import EpochTotals, LengthTotals, LongSample, MediaTotals, Packs, TokenTotals
from qvl_data.order.sample_order import SampleOrder

if TYPE_CHECKING:
    from qvl_core.recipe.schema import Recipe


def length_totals(tokens: NDArray[np.integer]) -> LengthTotals | None:
    """Give the totals of int [N] lengths; None without samples."""
    if not len(tokens):
        return None
    median, p90, p99 = (int(value) for value in np.percentile(tokens, (50, 90, 99), method="inverted_cdf"))
    return LengthTotals(
        shortest=int(tokens.min()),
        mean=float(tokens.mean()),
        median=median,
        p90=p90,
        p99=p99,
        longest=int(tokens.max()),
    )


def token_totals(data: Dataset) -> TokenTotals:
    """Add up the tokens of all samples by what they stand for."""
    text, image, video = (int(part.sum()) for part in split_tokens(data, data.rows))
    return TokenTotals(text=text, image=image, video=video)


def split_tokens(
    data: Dataset, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Give the text, image and video tokens of rows of a data set's tables, int64 [len(rows)] each."""
    samples = data.samples
    text = samples.text_tokens[rows].astype(np.int64)
    of_media = samples.tokens[rows].astype(np.int64) - text
    counts = samples.media_counts()
    is_video = data.media.is_video()[samples.media_numbers]
    totals = np.concatenate([np.zeros(1, np.int64), np.cumsum(is_video)])
    videos = (totals[samples.media_end] - totals[samples.media_end - counts])[rows]
    video = np.where(videos == counts[rows], of_media, 0)
    # Only where a sample has both kinds does it take more than a subtraction.
    for place in np.flatnonzero((videos > 0) & (videos < counts[rows])).tolist():
        video[place] = _video_tokens(data, int(rows[place]))
    return text, of_media - video, video


def longest_samples(data: Dataset, count: int) -> tuple[LongSample, ...]:
    """Name the longest samples, longest first, earlier ones before equal ones."""
    chosen = longest_first(data.lengths, count)
    parts = split_tokens(data, data.rows[chosen])
    return tuple(
        LongSample(where=data.where(index), tokens=text + image + video, text=text, image=image, video=video)
        for index, text, image, video in zip(chosen.tolist(), *(part.tolist() for part in parts), strict=True)
    )


def longest_first(tokens: NDArray[np.integer], count: int) -> NDArray[np.int64]:
    """Give the indexes of the `count` longest of [N] samples, longest first, earlier ones before equal ones."""
    return np.argsort(-tokens.astype(np.int64), kind="stable")[:count]


def media_totals(media: MediaTable) -> MediaTotals:
    """Count the different files of a table and their bytes."""
    _, first = np.unique(media.path.astype(str), return_index=True) if len(media) else ([], np.zeros(0, np.int64))
    videos = int(media.is_video()[first].sum())
    return MediaTotals(images=len(first) - videos, videos=videos, bytes=int(media.size[first].sum()))


def epoch_totals(train: Dataset, recipe: Recipe) -> EpochTotals | None:
    """Give what the first epoch holds, by the order of a run; None for a recipe without [train]."""
    section = recipe.train
    if section is None or not len(train):
        return None
    packs: Packs | None = None
    if recipe.data.packing:
        order = indexed_items(train, recipe).order
        items = order.items(0, order.epoch_length)
        samples, tokens = sum(len(item.samples) for item in items), sum(item.tokens for item in items)
        packs = Packs(count=len(items), fill=tokens / (len(items) * recipe.data.sequence_length))
    else:
        indexes = SampleOrder(counts=train.counts, weights=train.weights, seed=section.seed).epoch(0)
        samples, tokens = len(indexes), int(train.lengths[indexes].sum())
    return EpochTotals(
        samples=samples,
        tokens=tokens,
        items_per_step=section.global_batch,
        packs=packs,
        steps=section.steps,
        epochs=section.epochs,
    )


def _video_tokens(data: Dataset, row: int) -> int:
    max_pixels = int(data.samples.max_pixels[row]) or None
    files = [data.media.file(int(number)) for number in data.samples.media_of(row)]
    grids = [data.processor.grid(file.facts, max_pixels) for file in files if file.kind == "video"]
    return int(tokens_of(grids, data.processor.spec.vision.spatial_merge_size).sum())
