"""What training takes one after another: an item is a sample, or a pack of samples. Positions count items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qvl_data.order.packing import Deals, PackGroup
from qvl_data.order.randomness import Purpose, drawn
from qvl_data.order.sample_order import EndlessOrder, SampleOrder

# So many substitutes in a row that cannot be used mean that a source is broken, not a sample.
MAX_SUBSTITUTES = 100


@dataclass(frozen=True, kw_only=True)
class Item:
    """The samples of one position by their numbers, and their tokens. Samples of one item share a pack."""

    position: int
    samples: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens of the item."""
        return sum(self.lengths)


class ItemOrder(Protocol):
    """An endless order of items, the same for all who ask."""

    @property
    def epoch_length(self) -> int:
        """Items in one epoch."""
        ...

    def items(self, position: int, count: int) -> list[Item]:
        """Give the items at `count` positions from `position` on."""
        ...

    def substitute(self, item: Item, place: int, attempt: int) -> int | None:
        """Give the sample that stands in for the one at a place of an item, if that cannot be used.

        A function of seed, position, place and attempt (from 0). None: there is none that fits, or too many were tried.
        """
        ...


class SampleItems:
    """Every sample is an item."""

    def __init__(
        self, *, counts: tuple[int, ...], weights: tuple[float, ...], lengths: NDArray[np.integer[Any]], seed: int
    ) -> None:
        self._order = EndlessOrder(SampleOrder(counts=counts, weights=weights, seed=seed))
        self._borders = np.cumsum([0, *counts])
        self._lengths, self._seed = lengths, seed

    @property
    def epoch_length(self) -> int:
        """Items in one epoch: round(weight x samples) of each source."""
        return self._order.epoch_length

    def items(self, position: int, count: int) -> list[Item]:
        """Give the items at `count` positions from `position` on."""
        indexes = self._order.at(position, count)
        pairs = zip(indexes.tolist(), self._lengths[indexes].tolist(), strict=True)
        return [
            Item(position=position + i, samples=(index,), lengths=(length,)) for i, (index, length) in enumerate(pairs)
        ]

    def substitute(self, item: Item, place: int, attempt: int) -> int | None:
        """Give another sample of the same source: what is trained on keeps its mix."""
        if attempt >= MAX_SUBSTITUTES:
            return None
        source = int(np.searchsorted(self._borders, item.samples[place], side="right")) - 1
        first, count = int(self._borders[source]), int(self._borders[source + 1] - self._borders[source])
        return first + drawn(count, self._seed, Purpose.SUBSTITUTE, item.position, place, attempt)


class PackItems:
    """Every pack is an item. Sources of equal weight are packed together, and a weight counts packs.

    An epoch draws round(weight x packs) packs of each group of sources and shuffles them together; a group is walked
    through in shuffled rounds, as a source is without packing.
    """

    def __init__(
        self,
        *,
        counts: tuple[int, ...],
        weights: tuple[float, ...],
        lengths: NDArray[np.integer[Any]],
        capacity: int,
        seed: int,
    ) -> None:
        self._seed = seed
        self._groups = pack_groups(counts, weights, lengths, capacity)
        self._sources = np.cumsum([0, *counts])
        by_weight = dict(self._groups)
        self._group_of_source = [by_weight.get(weight) for weight in weights]
        packs = tuple(len(group.packs) for _, group in self._groups)
        order = SampleOrder(counts=packs, weights=tuple(weight for weight, _ in self._groups), seed=seed)
        self._order = EndlessOrder(order)
        self._borders = np.cumsum([0, *packs])
        # An epoch mixes so many rounds of a group; one more for the step in which the next epoch begins.
        self._deals = [Deals(group, seed, kept=math.ceil(weight) + 2) for weight, group in self._groups]

    @property
    def epoch_length(self) -> int:
        """Packs in one epoch."""
        return self._order.epoch_length

    def items(self, position: int, count: int) -> list[Item]:
        """Give the items at `count` positions from `position` on."""
        packs, rounds = self._order.draws_at(position, count)
        groups = np.searchsorted(self._borders, packs, side="right") - 1
        numbers = packs - self._borders[groups]
        found = []
        for i, (group, number, round_number) in enumerate(zip(groups, numbers, rounds, strict=True)):
            samples, lengths = self._deals[group].pack(int(number), int(round_number))
            found.append(Item(position=position + i, samples=samples, lengths=lengths))
        return found

    def substitute(self, item: Item, place: int, attempt: int) -> int | None:
        """Give a sample of the same group that is not longer than the one whose place it takes."""
        if attempt >= MAX_SUBSTITUTES:
            return None
        # From the sample and not from the order, which threads must not read at the same time.
        source = int(np.searchsorted(self._sources, item.samples[place], side="right")) - 1
        group = self._group_of_source[source]
        assert group is not None, "its source has samples"
        fitting = group.not_longer(item.lengths[place])
        return int(fitting[drawn(len(fitting), self._seed, Purpose.SUBSTITUTE, item.position, place, attempt)])


def pack_groups(
    counts: Sequence[int], weights: Sequence[float], lengths: NDArray[np.integer[Any]], capacity: int
) -> list[tuple[float, PackGroup]]:
    """Give the groups of sources of equal weight, each with its weight; sample indexes run through the sources."""
    borders = np.cumsum([0, *counts])
    found = []
    for number, weight in enumerate(sorted(set(weights))):
        spans = [np.arange(borders[source], borders[source + 1]) for source, own in enumerate(weights) if own == weight]
        members = np.concatenate(spans)
        if len(members):
            group = PackGroup(number=number, members=members, lengths=lengths[members], capacity=capacity)
            found.append((weight, group))
    return found


def count_items(
    counts: tuple[int, ...], weights: tuple[float, ...], lengths: NDArray[np.integer[Any]], capacity: int | None
) -> int:
    """Count the items of one epoch: samples, or packs of `capacity` tokens."""
    if capacity is None:
        return SampleOrder(counts=counts, weights=weights, seed=0).epoch_length
    return PackItems(counts=counts, weights=weights, lengths=lengths, capacity=capacity, seed=0).epoch_length
