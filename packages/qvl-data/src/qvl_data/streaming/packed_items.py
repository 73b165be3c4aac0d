"""Streamed rows as packs. Samples are numbered by the position of their row in the order of rows."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from itertools import accumulate
from threading import Lock

from qvl_core.errors import RunError
from qvl_core.specs.model_spec import ModelSpec

from qvl_data.batching.item_source import TakenItem
from qvl_data.order.items import MAX_SUBSTITUTES, Item
from qvl_data.order.randomness import Purpose, drawn
from qvl_data.planning import PlannedSample
from qvl_data.samples import Sample
from qvl_data.streaming.pack_memory import PackMemory
from qvl_data.streaming.pack_windows import OpeningWindow, PackWindow, WindowOpener
from qvl_data.streaming.stream_items import Stream

_log = logging.getLogger("qvl_data")
_SAID_EVERY = 16


@dataclass(frozen=True, kw_only=True)
class PackedItem(Item):
    """A pack, and the window that it belongs to."""

    window: PackWindow


class PackOrder:
    """The order of packs. Where a window begins is known once the windows before it were packed, in this run or before.

    `items` is called by one thread, `substitute` by several.
    """

    def __init__(self, opener: WindowOpener, memory: PackMemory, *, seed: int, timeout_s: float) -> None:
        self._opener, self._memory = opener, memory
        self._seed, self._timeout_s = seed, timeout_s
        self._ends = list(accumulate(memory.counts))
        self._opening: dict[int, OpeningWindow] = {}
        self._window: PackWindow | None = None

    @property
    def epoch_length(self) -> int:
        """Nobody knows: it takes all rows to be tokenised."""
        raise NotImplementedError("packs of streamed data are not counted")

    def items(self, position: int, count: int) -> list[Item]:
        """Give the packs at `count` positions from `position` on."""
        return [self._item(number) for number in range(position, position + count)]

    def substitute(self, item: Item, place: int, attempt: int) -> int | None:
        """Give a sample of the same window that is not longer than the one whose place it takes."""
        assert isinstance(item, PackedItem), "made by `items`"
        if attempt >= MAX_SUBSTITUTES:
            return None
        fitting = item.window.not_longer(item.lengths[place])
        return int(fitting[drawn(len(fitting), self._seed, Purpose.SUBSTITUTE, item.position, place, attempt)])

    def _item(self, position: int) -> PackedItem:
        if not self._ends or position >= self._ends[-1]:
            self._count_up_to(position)
        number = bisect_right(self._ends, position)
        window = self._open(number)
        pack = position - (self._ends[number - 1] if number else 0)
        return PackedItem(position=position, samples=window.packs[pack], lengths=window.lengths(pack), window=window)

    def _count_up_to(self, position: int) -> None:
        """Open windows until one holds a position. More than one is said aloud: it is the price of a lost memory."""
        opened = 0
        while not self._ends or position >= self._ends[-1]:
            if opened % _SAID_EVERY == 1:
                known = self._ends[-1]
                _log.warning(
                    "packing the data again up to pack %s, at %s: cache_dir forgot", f"{position:,}", f"{known:,}"
                )
            self._open(len(self._ends))
            opened += 1

    def _open(self, number: int) -> PackWindow:
        if self._window is None or self._window.number != number:
            opening = self._opening.pop(number, None) or self._opener.begin(number)
            # The next one is planned while this one is used.
            self._opening = {number + 1: self._opening.get(number + 1) or self._opener.begin(number + 1)}
            self._window = opening.wait(self._timeout_s)
            packs = len(self._window.packs)
            if number < len(self._ends):
                self._require_same(number, packs)
            else:
                self._ends.append((self._ends[-1] if self._ends else 0) + packs)
                self._memory.add(packs)
        return self._window

    def _require_same(self, number: int, packs: int) -> None:
        """Raise RunError if a window has not as many packs as it had: positions would mean other samples."""
        known = self._ends[number] - (self._ends[number - 1] if number else 0)
        if packs != known:
            raise RunError(
                f"{self._memory.path}: window {number:,} has {packs:,} packs where it had {known:,}; media files were "
                "changed, or some could not be read then or now\n"
                "fix: put them back; or remove that file, and the order goes on with other samples"
            )


class PackedStreamItems:
    """Packs of streamed rows in the order of training."""

    def __init__(
        self, stream: Stream, opener: WindowOpener, memory: PackMemory, *, seed: int, timeout_s: float
    ) -> None:
        self._stream, self._opener = stream, opener
        self.order = PackOrder(opener, memory, seed=seed, timeout_s=timeout_s)
        self.spec: ModelSpec = stream.rules.processor.spec
        self._rows = stream.order(seed)
        self._plans = _Plans(opener.size)
        self._told: int | None = None

    def take(self, position: int, count: int) -> list[TakenItem]:
        """Give the packs at `count` positions; the first of a window tells what its window left out."""
        taken = []
        for item in self.order.items(position, count):
            assert isinstance(item, PackedItem)
            is_new = item.window.number != self._told
            self._told = item.window.number
            if is_new:
                self._plans.add(item.window)
            taken.append(TakenItem(item=item, met=item.window.met if is_new else ()))
        return taken

    def sample(self, number: int) -> Sample:
        """Make the sample of the row at a position. Raises DataError, TooLongError."""
        planned = self._plans.get(number)
        if planned is None:
            planned = self._stream.rules.plan(self._stream.rows.row(self._rows.row(number)))
        return self._stream.rules.make(planned)

    def where(self, number: int) -> str:
        """Give file and line of the row at a position."""
        planned = self._plans.get(number)
        return planned.record.where if planned is not None else self._stream.where(self._rows.row(number))

    def close(self) -> None:
        """Let the threads end."""
        self._opener.close()


class _Plans:
    """The plans of the last few windows. Safe to use from several threads."""

    _KEPT = 4

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = Lock()
        self._windows: OrderedDict[int, PackWindow] = OrderedDict()

    def add(self, window: PackWindow) -> None:
        with self._lock:
            self._windows[window.number] = window
            while len(self._windows) > self._KEPT:
                self._windows.popitem(last=False)

    def get(self, position: int) -> PlannedSample | None:
        with self._lock:
            window = self._windows.get(position // self._size)
        return window.plans.get(position) if window is not None else None
