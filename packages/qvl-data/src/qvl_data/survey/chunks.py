"""A share of the records, judged chunk by chunk; a chunk's outcome is a JSON object of bounded size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qvl_core.errors import DataError, Problem

from qvl_data.media.facts import MediaFile, facts_to_row
from qvl_data.planning import PlannedSample, Planner, Verdict, digest_of
from qvl_data.records.element import Element, Place
from qvl_data.records.problem_list import SHOWN, Finding
from qvl_data.records.record_file import open_record_files
from qvl_data.survey.job import SurveyJob

ROWS = 256
"""Records in a chunk: enough to hide the cost of sending it, few enough to show progress."""
COLUMNS = (
    *("source", "file", "offset", "size", "line", "number", "shares_line"),
    *("tokens", "text_tokens", "max_pixels", "digest", "media_count"),
)


@dataclass
class Chunk:
    """What became of consecutive records. Lists of JSON values; see COLUMNS for a row of `rows`."""

    number: int
    shown: int = SHOWN
    file: int = 0
    offset: int = 0
    rows: list[list[Any]] = field(default_factory=list)
    media: list[list[Any]] = field(default_factory=list)
    media_numbers: list[int] = field(default_factory=list)
    findings: list[list[str]] = field(default_factory=list)
    more: Counter[str] = field(default_factory=Counter)
    notes: list[list[str]] = field(default_factory=list)
    outcomes: dict[int, Counter[str]] = field(default_factory=dict)
    """By file: how many records were read, used, shrunk, dropped, wrong; `broken` if it cannot be read to its end."""
    _places: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, verdict: Verdict, element: Element, source: int, file: int) -> None:
        """Add one record."""
        place = _place(element)
        self.file, self.offset = file, place.offset + place.size
        counts = self.outcomes.setdefault(file, Counter())
        counts["read"] += 1
        counts[verdict.outcome] += 1
        for finding in verdict.findings:
            self._find(finding)
        if verdict.note and len(self.notes) < SHOWN:
            self.notes.append([verdict.where, verdict.note])
        if verdict.sample is not None:
            self._keep(verdict.sample, element, source, file)
        for medium in verdict.media:
            # Not used, but were it another one, the record might be.
            self._medium(medium, source)

    def add_broken(self, error: DataError, file: int) -> None:
        """Add that a file cannot be read any further."""
        self.file = file
        self.outcomes.setdefault(file, Counter())["broken"] += 1
        for problem in error.problems:
            self._find(Finding(kind="file", problem=problem))

    def to_json(self) -> dict[str, Any]:
        """Give the values that travel."""
        names = ("number", "file", "offset", "rows", "media", "media_numbers", "findings", "more", "notes")
        outcomes = {str(file): dict(counts) for file, counts in self.outcomes.items()}
        return {**{name: getattr(self, name) for name in names}, "outcomes": outcomes}

    def _find(self, finding: Finding) -> None:
        if sum(kind == finding.kind for kind, *_ in self.findings) < self.shown:
            problem = finding.problem
            self.findings.append([finding.kind, problem.where, problem.key, problem.message, problem.fix])
        else:
            self.more[finding.kind] += 1

    def _keep(self, sample: PlannedSample, element: Element, source: int, file: int) -> None:
        place = _place(element)
        self.rows.append(
            [
                *(source, file, place.offset, place.size, place.line, place.index, element.shares_line),
                *(sample.tokens, sample.text_tokens, sample.max_pixels or 0),
                *(digest_of(sample.record).hex(), len(sample.media)),
            ]
        )
        self.media_numbers += [self._medium(medium, source) for medium in sample.media]

    def _medium(self, file: MediaFile, source: int) -> int:
        key = (file.written, str(file.path))
        if key not in self._places:
            self._places[key] = len(self.media)
            self.media.append(
                [source, file.written, str(file.path), file.size, file.mtime_ns, facts_to_row(file.facts)]
            )
        return self._places[key]


def judge_share(job: SurveyJob, planner: Planner, share: int, shares: int) -> Iterator[Chunk]:
    """Judge every `shares`-th chunk of all records, beginning with chunk `share`."""
    rules = [job.rules(number) for number in range(len(job.sources))]
    chunk: Chunk | None = None
    position = 0
    for source, file, path, element in _elements(job):
        number = position // ROWS
        position += 1
        if number % shares != share:
            if chunk is not None:
                yield chunk
                chunk = None
            continue
        if chunk is None or chunk.number != number:
            if chunk is not None:
                yield chunk
            chunk = Chunk(number=number, shown=job.shown)
        if isinstance(element, DataError):
            chunk.add_broken(element, file)
        else:
            chunk.add(planner.judge(element, rules[source], path), element, source, file)
    if chunk is not None:
        yield chunk


def _elements(job: SurveyJob) -> Iterator[tuple[int, int, Path, Element | DataError]]:
    """Give all elements of all files: number of the source, of the file, the file's path, the element.

    In place of what cannot be read of a file, the reason: its other records, and other files, are judged all the same.
    """
    left = {number: rules["max_samples"] for number, rules in enumerate(job.sources)}
    for number, file in enumerate(job.files):
        path = Path(file.path)
        if left[file.source] == 0:
            continue
        (record_file,) = open_record_files(path)
        try:
            for element in record_file.elements():
                yield file.source, number, path, element
                if left[file.source] is not None:
                    left[file.source] -= 1
                    if left[file.source] == 0:
                        break
        except DataError as error:
            yield file.source, number, path, error


def _place(element: Element) -> Place:
    # An element that cannot be read may have none.
    return element.place or Place(offset=0, size=0, line=element.line, index=element.index)


def finding_of(row: list[str]) -> tuple[str, Problem]:
    """Give the kind and problem of one row of `Chunk.findings`."""
    kind, where, key, message, fix = row
    return kind, Problem(where=where, key=key, message=message, fix=fix)
