"""What becomes of a streamed record: the judge of the pass before an indexed run decides it, one record at a time."""

from __future__ import annotations

from collections.abc import Sequence

from qvl_core.errors import DataError, Problem

from qvl_data.batching.bad_samples import StopError, TooLongError, UncertainError
from qvl_data.chat import LossOn
from qvl_data.planning import PlannedSample, Planner
from qvl_data.processor import Processor
from qvl_data.records.record import Frame
from qvl_data.samples import Sample, build_sample
from qvl_data.source_rules import SourceRules
from qvl_data.streaming.rows import Row


class RowRules:
    """Plans and makes samples of streamed rows. Safe to use from several threads."""

    def __init__(
        self, *, sources: Sequence[SourceRules], planner: Planner, processor: Processor, loss_on: LossOn, frame: Frame
    ) -> None:
        self.processor = processor
        self._sources, self._planner = tuple(sources), planner
        self._loss_on: LossOn = loss_on
        self._frame: Frame = frame

    def plan(self, row: Row) -> PlannedSample:
        """Give what will be made of a row. Raises DataError for one that cannot be used; TooLongError, StopError."""
        verdict = self._planner.judge(row.element, self._sources[row.source], row.path)
        if verdict.sample is not None:
            return verdict.sample
        if verdict.outcome == "dropped":
            raise TooLongError(Problem(where=verdict.where, message=verdict.note))
        problems = [finding.problem for finding in verdict.findings]
        kinds = {finding.kind for finding in verdict.findings}
        if "too_long" in kinds:
            raise StopError(problems)
        raise (UncertainError if "uncertain" in kinds else DataError)(problems)

    def make(self, planned: PlannedSample) -> Sample:
        """Make the sample. Raises DataError."""
        return build_sample(planned, self.processor, loss_on=self._loss_on, frame=self._frame)
