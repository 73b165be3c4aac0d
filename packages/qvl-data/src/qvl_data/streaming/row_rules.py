"""What becomes of a streamed record: the same functions decide it that decide it in the pass before an indexed run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qvl_core.errors import DataError, Problem

from qvl_data.bad_samples import StopError, TooLongError
from qvl_data.chat import LossOn
from qvl_data.media.preflight import check_media
from qvl_data.planning import LengthRule, TooLongList, plan_samples, resolve_media
from qvl_data.processor import Processor
from qvl_data.records.formats import parse_element
from qvl_data.records.problem_list import ProblemList
from qvl_data.records.record import Record
from qvl_data.samples import PlannedSample, Sample, build_sample
from qvl_data.streaming.rows import Row


class RowRules:
    """Plans and makes samples of streamed rows. Safe to use from several threads."""

    def __init__(
        self,
        *,
        formats: Sequence[str],
        media_roots: Sequence[Path],
        processor: Processor,
        rule: LengthRule,
        loss_on: LossOn,
    ) -> None:
        self.processor = processor
        self._formats, self._roots = formats, media_roots
        self._rule = rule
        self._loss_on: LossOn = loss_on

    def plan(self, row: Row) -> PlannedSample:
        """Give what will be made of a row. Raises DataError for one that cannot be used; TooLongError, StopError."""
        record = parse_element(row.element, path=row.path, format_name=self._formats[row.source])
        if not isinstance(record, Record):
            raise DataError(record)
        problems, too_long = ProblemList(), TooLongList()
        resolved = resolve_media([record], self._roots[row.source], problems)
        problems.raise_if_any(row.where)
        media = check_media(resolved[0][1], cache_dir=None)
        planned = plan_samples(
            resolved, media=media, processor=self.processor, rule=self._rule, problems=problems, too_long=too_long
        )
        if problems.count and self._rule.policy == "error" and not media.errors:
            raise StopError(problems.error(row.where).problems)
        problems.raise_if_any(row.where)
        if not planned:
            raise TooLongError(Problem(where=row.where, message=too_long.examples[0].message))
        return planned[0]

    def make(self, planned: PlannedSample) -> Sample:
        """Make the sample. Raises DataError."""
        return build_sample(planned, self.processor, loss_on=self._loss_on)
