"""Rows of streamed sources by number: the blocks that hold them are read when they are needed, then forgotten."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from qvl_core.errors import RunError

from qvl_data.records.element import Block, Element
from qvl_data.records.record_file import RecordFile
from qvl_data.streaming.blocks import CutFile, first_rows


@dataclass(frozen=True, kw_only=True)
class Row:
    """One record as it stands in its file, and the number of its source."""

    element: Element
    path: Path
    source: int

    @property
    def where(self) -> str:
        """File and line."""
        return self.element.where(self.path)


class _Loading:
    """A block that one thread reads while the others wait for it."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.elements: list[Element] | None = None


class Rows:
    """The rows of all sources, numbered through. About `kept` rows are held. Safe to use from several threads."""

    def __init__(self, sources: Sequence[tuple[Sequence[CutFile], int | None]], *, kept: int) -> None:
        """`sources` gives for each its files and the number of rows that are used, None for all."""
        self._blocks: list[tuple[RecordFile, Block, int]] = []
        self.block_rows: list[list[int]] = []
        """Rows of each block of each source."""
        for number, (files, limit) in enumerate(sources):
            self.block_rows.append(self._add(number, files, limit))
        self._first_row = np.concatenate([[0], np.cumsum([rows for own in self.block_rows for rows in own])])
        self._kept = kept
        self._held = 0
        self._lock = Lock()
        self._loaded: OrderedDict[int, _Loading] = OrderedDict()

    def _add(self, number: int, files: Sequence[CutFile], limit: int | None) -> list[int]:
        left = limit
        rows = []
        for cut_file in files:
            for block in first_rows(cut_file.blocks, left):
                used = block.rows if left is None else min(block.rows, left)
                left = None if left is None else left - used
                self._blocks.append((cut_file.file, block, number))
                rows.append(used)
        return rows

    def row(self, number: int) -> Row:
        """Give a row. Raises what reading its file raises; RunError if its block has fewer rows than it had."""
        at = int(np.searchsorted(self._first_row, number, side="right")) - 1
        file, block, source = self._blocks[at]
        elements = self._elements(at)
        offset = number - int(self._first_row[at])
        if len(elements) != block.rows:
            message = f"has {len(elements)} records from line {block.line} on where it had {block.rows}"
            raise RunError(f"{file.path}: {message}: the file was changed while it was in use; start again")
        return Row(element=elements[offset], path=file.path, source=source)

    def _elements(self, at: int) -> list[Element]:
        file, block, _ = self._blocks[at]
        with self._lock:
            loading = self._loaded.get(at)
            if loading is None:
                loading = self._loaded[at] = _Loading()
                self._held += block.rows
                self._forget()
            self._loaded.move_to_end(at)
        with loading.lock:
            if loading.elements is None:
                loading.elements = file.read_block(block)
            return loading.elements

    def _forget(self) -> None:
        while self._held > self._kept and len(self._loaded) > 1:
            at, _ = self._loaded.popitem(last=False)
            self._held -= self._blocks[at][1].rows
