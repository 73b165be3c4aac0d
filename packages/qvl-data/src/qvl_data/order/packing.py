"""Short samples joined to packs of at most `capacity` tokens: which lengths go together, and which samples fill them.

Packs are formed once, from lengths alone, by best fit: longest first, each into the fullest pack that has room. Samples
of one length are the same to it, so it works on counts of lengths, as in Krell et al. (arXiv 2107.02027), section 3,
and ten million samples take seconds. What stays is a list of packs of lengths. In each round the samples of a length
are dealt anew to the places of that length: every sample is used once a round, the number of packs never changes.

Legend: K packs, N samples (as many as places).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvl_data.order.randomness import Purpose, shuffled


@dataclass(frozen=True, kw_only=True, eq=False)
class Packs:
    """Packs of lengths: pack k has the places starts[k] to starts[k + 1], longest first."""

    starts: NDArray[np.int64]  # [K + 1]
    lengths: NDArray[np.int32]  # [N] tokens of the sample at each place

    def __len__(self) -> int:
        return len(self.starts) - 1

    def fill(self, capacity: int) -> float:
        """Give the share of all packs' room that is used."""
        return float(self.lengths.sum(dtype=np.int64)) / (capacity * max(1, len(self)))


def best_fit(lengths: NDArray[np.integer[Any]], capacity: int) -> Packs:
    """Form packs of samples with these lengths, [N], none of them longer than `capacity` tokens."""
    distinct, counts = np.unique(lengths, return_counts=True)
    assert not len(distinct) or 0 < distinct[0] <= distinct[-1] <= capacity, (distinct[:1], distinct[-1:], capacity)
    shelf = _Shelf(capacity)
    for length, count in zip(distinct[::-1].tolist(), counts[::-1].tolist(), strict=True):
        shelf.add(length, count)
    sizes, places = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
    for template, copies in shelf.packs():
        sizes.append(np.full(copies, len(template), np.int64))
        places.append(np.tile(np.array(template, np.int32), copies))
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(sizes))])
    return Packs(starts=starts, lengths=np.concatenate(places))


class _Shelf:
    """Packs by the room that is left in them. Packs with the same lengths in them are counted, not kept one by one."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        # Room in tokens -> packs with that room: the last thing put in (a number into `_steps`), how many such packs.
        self._packs: dict[int, list[tuple[int, int]]] = {}
        self._rooms: list[int] = []
        self._steps: list[tuple[int, int, int]] = []  # what was put in before, length, how many of it

    def add(self, length: int, count: int) -> None:
        """Put `count` samples of a length, at most that of all before, where least room is left."""
        rooms = self._rooms[bisect_left(self._rooms, length) :]
        for room in rooms:
            if not count:
                return
            each = room // length
            waiting = self._packs.pop(room)
            self._rooms.remove(room)
            while waiting and count:
                step, copies = waiting.pop()
                used = min(copies, max(1, count // each))
                if used < copies:
                    waiting.append((step, copies - used))
                inside = min(each, count)
                self._put(step, length, inside, room, used)
                count -= inside * used
            for step, copies in waiting:
                self._keep(room, step, copies)
        each = self._capacity // length
        if count >= each:
            self._put(-1, length, each, self._capacity, count // each)
        if count % each:
            self._put(-1, length, count % each, self._capacity, 1)

    def packs(self) -> Iterator[tuple[list[int], int]]:
        """Give the lengths in a pack, longest first, and how many packs have them."""
        for room in self._rooms:
            for step, copies in self._packs[room]:
                lengths: list[int] = []
                while step >= 0:
                    step, length, inside = self._steps[step]
                    lengths += [length] * inside
                yield lengths[::-1], copies

    def _put(self, step: int, length: int, inside: int, room: int, copies: int) -> None:
        self._steps.append((step, length, inside))
        self._keep(room - inside * length, len(self._steps) - 1, copies)

    def _keep(self, room: int, step: int, copies: int) -> None:
        if room not in self._packs:
            self._packs[room] = []
            insort(self._rooms, room)
        self._packs[room].append((step, copies))


class PackGroup:
    """Samples that are packed with each other, and which of them fills which place in which round."""

    def __init__(
        self, *, number: int, members: NDArray[np.int64], lengths: NDArray[np.integer[Any]], capacity: int
    ) -> None:
        """`members` are sample indexes, `lengths` their tokens; `number` tells the group from others of the run."""
        self.packs = best_fit(lengths, capacity)
        self._number = number
        self._members = members
        # The rank of a length instead of it: 16 bits are enough nearly always, and those numpy sorts in linear time.
        kinds = np.unique(lengths, return_inverse=True)[1]
        self._kinds = kinds.astype(np.uint16 if kinds.max(initial=0) < 2**16 else np.int32)
        self._places = np.argsort(self.packs.lengths, kind="stable")
        by_length = np.argsort(self._kinds, kind="stable")
        self._sorted_members = self._members[by_length]
        self._sorted_lengths = lengths[by_length]

    def deal(self, seed: int, round_number: int) -> NDArray[np.int64]:
        """Give the sample index at each place in a round, int64 [N]; each sample has one place of its length."""
        order = shuffled(len(self._members), seed, Purpose.DEAL, self._number, round_number)
        by_length = order[np.argsort(self._kinds[order], kind="stable")]
        dealt = np.empty(len(self._members), np.int64)
        dealt[self._places] = self._members[by_length]
        return dealt

    def not_longer(self, length: int) -> NDArray[np.int64]:
        """Give the indexes of the samples that fit into a place of so many tokens, shortest first."""
        return self._sorted_members[: np.searchsorted(self._sorted_lengths, length, side="right")]


class Deals:
    """The deals of one group, of which the last `kept` are remembered."""

    def __init__(self, group: PackGroup, seed: int, *, kept: int) -> None:
        self._group, self._seed, self._kept = group, seed, kept
        self._rounds: OrderedDict[int, NDArray[np.int64]] = OrderedDict()

    def pack(self, number: int, round_number: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Give the sample indexes of a pack of the group in a round, and their tokens."""
        if round_number not in self._rounds:
            while len(self._rounds) >= self._kept:
                self._rounds.popitem(last=False)
            self._rounds[round_number] = self._group.deal(self._seed, round_number)
        self._rounds.move_to_end(round_number)
        packs = self._group.packs
        place = slice(packs.starts[number], packs.starts[number + 1])
        return tuple(self._rounds[round_number][place].tolist()), tuple(packs.lengths[place].tolist())
