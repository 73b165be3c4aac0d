"""All records of a recipe, read and judged once: which can be used, where they stand, how long they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from qvl_core.errors import DataError, Problem

from qvl_data.index import TableBuilder, content_hash
from qvl_data.processor import Processor
from qvl_data.records.parquet import GroupCache
from qvl_data.records.problem_list import SHOWN, Kind, ProblemList
from qvl_data.records.record_file import RecordFile, open_record_files
from qvl_data.source_rules import SourceRules
from qvl_data.survey.chunks import COLUMNS, finding_of, judge_share
from qvl_data.survey.job import SurveyJob, make_job
from qvl_data.survey.processes import MOST_PROCESSES, chunks_in_order, usable_cores
from qvl_data.survey.result import Counts, Progress, Survey, note_from_text

if TYPE_CHECKING:
    from qvl_core.recipe.schema import Recipe

# Below this many bytes of records, starting processes takes longer than the work.
_WORTH_PROCESSES = 256 * 1024


class OpenedSources:
    """The files of all sources, opened once: (number of the source, file), and what could not be opened."""

    def __init__(self, rules: Sequence[SourceRules], shown: int = SHOWN) -> None:
        self.problems = ProblemList(shown)
        self.files = open_sources(rules, self.problems)

    @cached_property
    def digests(self) -> list[str]:
        """Give the sha256 of each file; all of them are read, once."""
        return [file.digest() for _, file in self.files]

    def digest_by_path(self) -> dict[str, str]:
        """Give the same by path."""
        return {str(file.path): digest for (_, file), digest in zip(self.files, self.digests, strict=True)}


def survey(
    recipe: Recipe,
    rules: Sequence[SourceRules],
    processor: Processor,
    *,
    decode: bool,
    progress: Progress | None = None,
    shown: int = SHOWN,
    processes: int | None = None,
    sources: OpenedSources | None = None,
) -> Survey:
    """Judge every record of every source. Wrong ones are problems of the result; nothing is raised for them.

    `processes` is how many work at it: by default one for little data, else one a core. `sources` are those of the
    rules, where the caller has opened them.
    """
    sources = sources or OpenedSources(rules, shown)
    problems, opened = sources.problems, sources.files
    files = [(source, file.path) for source, file in opened]
    job = make_job(recipe, list(rules), files, processor, decode=decode, shown=max(SHOWN, shown))
    builder = TableBuilder()
    outcomes: list[Counter[str]] = [Counter() for _ in opened]
    notes: list[Problem] = []
    extents = [_extent(file.path) for _, file in opened]
    with ThreadPoolExecutor(1) as pool:
        digests = pool.submit(lambda: sources.digests)
        for chunk in _chunks(job, processor, sum(extents), processes):
            _gather(chunk, builder, outcomes, notes, problems)
            if progress is not None:
                done = sum(extents[: chunk["file"]]) + min(chunk["offset"], extents[chunk["file"]])
                progress("checking records", done, sum(extents))
        if progress is not None:
            progress("checking records", sum(extents), sum(extents))
        by_source: dict[int, list[str]] = {number: [] for number in range(len(rules))}
        for (source, _), digest in zip(opened, digests.result(), strict=True):
            by_source[source].append(digest)
    for (_, file), counts in zip(opened, outcomes, strict=True):
        if not counts["read"] and not counts["broken"] and not _is_cut_off(rules, opened, file):
            problems.add(Problem(where=str(file.path), message="the list is empty: 0 records"), "file")
    samples, media = builder.samples(), builder.media()
    return Survey(
        rules=tuple(rules),
        files=tuple(file.path for _, file in opened),
        file_sources=tuple(source for source, _ in opened),
        samples=samples,
        media=media,
        counts=tuple(_counts_of(number, opened, outcomes) for number in range(len(rules))),
        problems=problems,
        notes=tuple(notes),
        data_hash=content_hash(samples, media, by_source),
        decoded=decode,
    )


def open_sources(rules: Sequence[SourceRules], problems: ProblemList) -> list[tuple[int, RecordFile]]:
    """Open the files of all sources: (number of the source, file). What cannot be opened is a problem."""
    opened, cache = [], GroupCache()
    for number, rule in enumerate(rules):
        try:
            files = open_record_files(rule.path, cache)
        except DataError as error:
            problems.extend(error.problems, "file")
            continue
        if not rule.media_root.is_dir():
            fix = "set media_root of this source to the folder that the media paths start from"
            where, message = str(rule.media_root), "there is no such folder"
            problems.add(Problem(where=where, key="data.sources.media_root", message=message, fix=fix), "file")
            continue
        opened += [(number, file) for file in files]
    return opened


def _is_cut_off(rules: Sequence[SourceRules], opened: Sequence[tuple[int, RecordFile]], file: RecordFile) -> bool:
    """Tell whether a file was not read because max_samples were found in the files before it."""
    (source,) = (source for source, one in opened if one is file)
    return rules[source].max_samples is not None


def _chunks(job: SurveyJob, processor: Processor, extent: int, processes: int | None) -> Iterator[dict[str, Any]]:
    if processes is None:
        processes = min(usable_cores(), MOST_PROCESSES) if extent > _WORTH_PROCESSES else 1
    if processes > 1:
        yield from chunks_in_order(job, processes)
        return
    for chunk in judge_share(job, job.planner(processor), 0, 1):
        yield {**chunk.to_json(), "more": dict(chunk.more)}


def _gather(
    chunk: dict[str, Any],
    builder: TableBuilder,
    outcomes: list[Counter[str]],
    notes: list[Problem],
    problems: ProblemList,
) -> None:
    columns = {name: np.array(values) for name, values in zip(COLUMNS, zip(*chunk["rows"], strict=True), strict=False)}
    if columns:
        digests = "".join(columns["digest"].tolist())
        columns["digest"] = np.frombuffer(bytes.fromhex(digests), np.uint8).reshape(len(chunk["rows"]), -1)
        builder.add(columns, chunk["media"], np.array(chunk["media_numbers"], np.int64))
    else:
        builder.add_media(chunk["media"])
    for row in chunk["findings"]:
        kind, problem = finding_of(row)
        problems.add(problem, cast("Kind", kind))
    for kind, number in chunk["more"].items():
        problems.count_more(cast("Kind", kind), number)
    for where, message in chunk["notes"][: max(0, SHOWN - len(notes))]:
        notes.append(note_from_text(where, message))
    for file, counts in chunk["outcomes"].items():
        outcomes[int(file)].update(counts)


def _counts_of(number: int, opened: Sequence[tuple[int, RecordFile]], outcomes: Sequence[Counter[str]]) -> Counts:
    total: Counter[str] = Counter()
    for (source, _), counts in zip(opened, outcomes, strict=True):
        if source == number:
            total.update(counts)
    return Counts(**{name: total[name] for name in ("read", "used", "shrunk", "dropped", "wrong")})


def _extent(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
