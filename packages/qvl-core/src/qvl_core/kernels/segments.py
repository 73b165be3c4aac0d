"""Which stretches of the token axis attend to each other, planned once per forward on the host.

Segments of one length are computed at once; mixed lengths (edge windows of an image, packed samples) are brought into a
few groups of equal length by the gather that also sorts rows by head, and are padded where that costs less than another
group. All layers share one plan.

A plan is a constant to jit: build one per batch shape, outside the compiled function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

MOST_GROUPS = 4
# What a group more costs, in scores of one head: about 10 operations forward and 20 backward, some 0.5 ms on CPU, where
# a score takes some 15 ns for each of a few heads. Lengths are padded to one where that is cheaper than two groups.
GROUP_COST = 2**14
# Up to this length the causal bias is one shared array (16 MiB); above it each chunk computes its own piece.
LONGEST_SHARED_BIAS = 2048
# Added to a score to hide it. Finite, so that a row that sees nothing stays a number; its exponential is exactly 0.
HIDDEN = -1e30
# No score array has more numbers than this (64 MiB in fp32): longer work is done in pieces of segments or queries.
# Under automatic differentiation the pieces are all kept; there recomputing the layer is what bounds memory.
MOST_SCORES = 2**24
# The size of the compressed causal mask that the fused attention prescribes.
COMPRESSED_MASK = 2048
# The most segments that one call of the fused attention takes (MindSpore), and the most tokens (CANN: "1 to 1M").
MOST_FUSED_SEGMENTS = 1024
MOST_FUSED_TOKENS = 2**20
# Rows of a call with a mask of rows by rows. A window of 64 patches is then one of 32 in its call.
MOST_MASKED_ROWS = 2048


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmentGroup:
    """`count` segments of `length` rows each (true `lengths`, the rest is padding), from ordered row `start`."""

    start: int
    count: int
    length: int
    lengths: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Give the number of rows of the group, padding included."""
        return self.count * self.length

    @cached_property
    def causal_bias(self) -> Tensor | None:
        """Give fp32 [length, length]: 0 where a row may look, HIDDEN above the diagonal; None above the limit."""
        if self.length > LONGEST_SHARED_BIAS:
            return None
        return Tensor(np.triu(np.full((self.length, self.length), HIDDEN, np.float32), 1))

    @cached_property
    def padding_bias(self) -> Tensor | None:
        """Give fp32 [count, 1, 1, length] that hides the padding keys; None where nothing is padded."""
        if all(length == self.length for length in self.lengths):
            return None
        hidden = np.arange(self.length)[None, :] >= np.asarray(self.lengths)[:, None]
        return Tensor(np.where(hidden, np.float32(HIDDEN), np.float32(0.0))[:, None, None, :])


@dataclass(frozen=True, kw_only=True, eq=False)
class Segments:
    """Attention segments of a flat token axis: token i sees token j only inside the same segment.

    `order` int32 [R] gathers the tokens into the rows of `groups`, `inverse` int32 [T] brings them back; both None
    where the tokens already lie as the groups want them. `most_scores` bounds the numbers in one score array.
    """

    lengths: tuple[int, ...]
    groups: tuple[SegmentGroup, ...]
    order: Tensor | None
    inverse: Tensor | None
    most_scores: int
    _head_rows: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def total(self) -> int:
        """Give the number of tokens T."""
        return sum(self.lengths)

    def head_rows(self, heads: int) -> tuple[Tensor, Tensor]:
        """Give the way from rows [T * N], heads of a token together, to those of the groups, and the way back.

        The rows of the groups are [R * N]: of each segment first all rows of its first head, then of its second, and so
        on, so that a group is [count, N, length] without a copy. Kept, for all layers want the same.
        """
        if heads not in self._head_rows:
            order = np.arange(self.total, dtype=np.int32) if self.order is None else self.order.asnumpy()
            inverse = order if self.inverse is None else self.inverse.asnumpy()
            tokens, places = _by_head(order, self.groups, heads)
            self._head_rows[heads] = (Tensor(tokens), Tensor(places[inverse].reshape(-1)))
        return self._head_rows[heads]

    @cached_property
    def fused_batches(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """Give what the fused attention takes at a time: the first row, and the ends of its segments.

        At most 1024 segments and 2**20 tokens each (one longer segment stands alone). The ends count from that row,
        without a leading 0, so that the last one is the number of rows.
        """
        batches: list[tuple[int, tuple[int, ...]]] = []
        first, ends = 0, [0]
        for length in self.lengths:
            if len(ends) > MOST_FUSED_SEGMENTS or (len(ends) > 1 and ends[-1] + length > MOST_FUSED_TOKENS):
                batches.append((first, tuple(ends[1:])))
                first, ends = first + ends[-1], [0]
            ends.append(ends[-1] + length)
        batches.append((first, tuple(ends[1:])))
        return tuple(batches)

    @cached_property
    def masked_batches(self) -> tuple[tuple[int, int], ...]:
        """Give the first and last row of each call that hides by a mask of rows by rows: whole segments.

        Few enough rows that a mask has 4 MiB; one longer segment stands alone, and needs none.
        """
        batches: list[tuple[int, int]] = []
        first = last = 0
        for length in self.lengths:
            if last > first and last - first + length > MOST_MASKED_ROWS:
                batches.append((first, last))
                first = last
            last += length
        return (*batches, (first, last))

    @cached_property
    def segment_masks(self) -> tuple[Tensor | None, ...]:
        """Give the mask of each of `masked_batches`: bool [rows, rows], True (= hidden) between two segments.

        None where there is but one segment. Batches of like segments share one mask.
        """
        numbers = np.repeat(np.arange(len(self.lengths)), self.lengths)
        masks: dict[bytes, Tensor | None] = {}
        found = []
        for first, last in self.masked_batches:
            own = (numbers[first:last] - numbers[first]).astype(np.int32)
            if own.tobytes() not in masks:
                hidden = own[:, None] != own[None, :]
                masks[own.tobytes()] = Tensor(hidden) if own[-1] else None
            found.append(masks[own.tobytes()])
        return tuple(found)

    @cached_property
    def compressed_causal_mask(self) -> Tensor:
        """Give bool [2048, 2048], True (= hidden) above the diagonal: what the fused attention wants for causal."""
        return Tensor(np.triu(np.ones((COMPRESSED_MASK, COMPRESSED_MASK), np.bool_), 1))


def build_segments(lengths: Sequence[int], *, most_scores: int = MOST_SCORES, group_cost: int = GROUP_COST) -> Segments:
    """Plan the segments of these lengths (tokens, in order; empty ones are left out). The sum is T, at least 1.

    jit compiles once for each plan object, not for each value: whoever compiles keeps the plan of a batch shape.
    """
    kept = tuple(int(length) for length in lengths if length != 0)
    assert kept, "attention over no token at all: the caller skips the layer"
    assert min(kept) > 0, f"negative segment length in {kept}"
    starts = np.cumsum((0, *kept[:-1]))
    members = _bucket(kept, group_cost)
    order, inverse = _rows(kept, starts, members)
    in_place = len(order) == sum(kept) and bool((order == np.arange(len(order))).all())
    return Segments(
        lengths=kept,
        groups=_place([tuple(kept[i] for i in bucket) for bucket in members]),
        order=None if in_place else Tensor(order),
        inverse=None if in_place else Tensor(inverse),
        most_scores=most_scores,
    )


def _place(buckets: Sequence[tuple[int, ...]]) -> tuple[SegmentGroup, ...]:
    """Lay the buckets one after another, each padded to its longest segment."""
    groups: list[SegmentGroup] = []
    start = 0
    for lengths in buckets:
        group = SegmentGroup(start=start, count=len(lengths), length=max(lengths), lengths=lengths)
        groups.append(group)
        start += group.rows
    return tuple(groups)


def _bucket(lengths: tuple[int, ...], group_cost: int) -> list[list[int]]:
    """Sort segment numbers into at most MOST_GROUPS buckets of like length, with as little padding as greed finds."""
    tops = sorted(set(lengths))
    buckets = [[i for i, length in enumerate(lengths) if length == size] for size in tops]
    while len(buckets) > 1:
        # Only neighbours merge: the smaller bucket is padded to the larger one's length, and its scores grow with it.
        padding = [len(buckets[i]) * (tops[i + 1] ** 2 - tops[i] ** 2) for i in range(len(buckets) - 1)]
        i = padding.index(min(padding))
        if len(buckets) <= MOST_GROUPS and padding[i] > group_cost:
            break
        buckets[i : i + 2] = [sorted(buckets[i] + buckets[i + 1])]
        del tops[i]
    return buckets


def _rows(
    lengths: tuple[int, ...], starts: NDArray[np.int64], buckets: list[list[int]]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return (order [R], inverse [T]): the token of every row, and the row of every token."""
    order: list[NDArray[np.int64]] = []
    inverse = np.empty(sum(lengths), np.int32)
    row = 0
    for bucket in buckets:
        width = max(lengths[i] for i in bucket)
        for i in bucket:
            # Padding repeats the segment's last token: any real number will do, its keys are hidden.
            order.append(starts[i] + np.minimum(np.arange(width), lengths[i] - 1))
            inverse[starts[i] : starts[i] + lengths[i]] = np.arange(row, row + lengths[i])
            row += width
    return np.concatenate(order).astype(np.int32), inverse


def _by_head(
    order: NDArray[np.int32], groups: Sequence[SegmentGroup], heads: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return (tokens [R * N], places [R, N]): the row of [T * N] at each place by head, and the place of each row."""
    tokens: list[NDArray[np.int32]] = []
    places = np.empty((len(order), heads), np.int32)
    head_N1 = np.arange(heads, dtype=np.int32)[:, None]
    for group in groups:
        stretch = slice(group.start, group.start + group.rows)
        of_group = order[stretch].reshape(group.count, 1, group.length) * heads + head_N1
        tokens.append(of_group.reshape(-1))
        laid_out = np.arange(of_group.size, dtype=np.int32).reshape(of_group.shape) + group.start * heads
        places[stretch] = laid_out.swapaxes(1, 2).reshape(-1, heads)
    return np.concatenate(tokens), places
