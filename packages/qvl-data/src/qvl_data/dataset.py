"""Samples of an index, each read again from its place when it is used."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from qvl_core.errors import DataError, Problem

from qvl_data.chat import LossOn
from qvl_data.index import MediaTable, SampleTable
from qvl_data.order.items import count_items
from qvl_data.planning import PlannedSample, digest_of
from qvl_data.processor import Processor
from qvl_data.records.element import Element, Place
from qvl_data.records.formats import parse_element
from qvl_data.records.record import Frame, Record
from qvl_data.records.record_file import RecordFile
from qvl_data.samples import MediumLoader, Sample, build_sample, load_medium
from qvl_data.source_rules import SourceRules


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Samples in file order, read again and made when they are asked for. `counts` and `weights`: one entry per source.

    `rows` are the samples' places in the tables, int64 [N].
    """

    samples: SampleTable
    media: MediaTable
    files: tuple[RecordFile, ...]
    rules: tuple[SourceRules, ...]
    rows: NDArray[np.int64]
    counts: tuple[int, ...]
    weights: tuple[float, ...]
    processor: Processor
    loss_on: LossOn
    frame: Frame = "resized"
    load: MediumLoader = load_medium
    """What makes patches of media, or brings features in their place (`vision_media.with_features`)."""

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Give the tokens of each sample, int64 [N]."""
        return self.samples.tokens[self.rows]

    def where(self, index: int) -> str:
        """Name sample `index`: `file:line`."""
        return self._element(index).where(self.files[self._file(index)].path)

    def planned(self, index: int) -> PlannedSample:
        """Read the record of sample `index` again. Raises DataError if it is not what was checked."""
        row = int(self.rows[index])
        file = self.files[self._file(index)]
        rule = self.rules[int(self.samples.source[row])]
        element = replace(file.read(self._place(row)), shares_line=bool(self.samples.shares_line[row]))
        record = parse_element(element, path=file.path, format_name=rule.format, tags=rule.tags)
        if not isinstance(record, Record) or digest_of(record) != self.samples.digest[row].tobytes():
            message = "the record was changed after it had been checked; start the run again"
            raise DataError(Problem(where=self.where(index), message=message))
        return PlannedSample(
            record=record,
            media=tuple(self.media.file(int(number)) for number in self.samples.media_of(row)),
            tokens=int(self.samples.tokens[row]),
            text_tokens=int(self.samples.text_tokens[row]),
            max_pixels=int(self.samples.max_pixels[row]) or None,
        )

    def sample(self, index: int) -> Sample:
        """Make sample `index`. Raises DataError, with file and line, if record or media have changed since."""
        planned = self.planned(index)
        return build_sample(planned, self.processor, loss_on=self.loss_on, frame=self.frame, load=self.load)

    def epoch_length(self, capacity: int | None = None) -> int:
        """Count the items of one epoch: round(weight x samples) of each source, or packs of `capacity` tokens."""
        return count_items(self.counts, self.weights, self.lengths, capacity)

    def _file(self, index: int) -> int:
        return int(self.samples.file[self.rows[index]])

    def _place(self, row: int) -> Place:
        samples = self.samples
        return Place(
            offset=int(samples.offset[row]),
            size=int(samples.size[row]),
            line=int(samples.line[row]),
            index=int(samples.number[row]),
        )

    def _element(self, index: int) -> Element:
        row = int(self.rows[index])
        place = self._place(row)
        shares = bool(self.samples.shares_line[row])
        return Element(line=place.line, index=place.index, place=place, shares_line=shares)
