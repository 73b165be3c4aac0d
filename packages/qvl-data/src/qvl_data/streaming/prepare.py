"""What a run on streamed data is told before its first step: files found and cut, nothing parsed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qvl_core.errors import DataError, Problem

from qvl_data.batching.item_source import ItemSource
from qvl_data.media.checker import MediaChecker
from qvl_data.planning import LengthRule, Planner
from qvl_data.processor import Processor
from qvl_data.records.problem_list import ProblemList
from qvl_data.source_rules import SourceRules
from qvl_data.streaming.blocks import ROWS, CutFile, cut
from qvl_data.streaming.pack_memory import PackMemory
from qvl_data.streaming.pack_windows import MOST_ROWS, WindowOpener
from qvl_data.streaming.packed_items import PackedStreamItems
from qvl_data.streaming.row_rules import RowRules
from qvl_data.streaming.rows import Rows
from qvl_data.streaming.stream_items import Stream, StreamItems
from qvl_data.survey.job import make_job
from qvl_data.survey.result import Progress
from qvl_data.survey.saved import survey_file
from qvl_data.survey.survey import open_sources

if TYPE_CHECKING:
    from qvl_core.recipe.schema import Recipe

Source = tuple[list[CutFile], int | None]
"""The files of a source, and how many of its rows are used; None for all."""


def open_stream(
    recipe: Recipe, rules: Sequence[SourceRules], processor: Processor, *, progress: Progress | None = None
) -> tuple[Stream, Sequence[Source]]:
    """Find and cut the files of a recipe's sources: the stream, and the files of each source.

    Raises DataError with everything that is wrong.
    """
    data = recipe.data
    _refuse_what_needs_all_records(recipe)
    sources: list[Source] = []
    problems = ProblemList()
    opened = open_sources(rules, problems)
    for number, rule in enumerate(rules):
        files = []
        for file in (file for source, file in opened if source == number):
            try:
                files.append(cut(file, cache_dir=Path(data.cache_dir), progress=progress))
            except DataError as error:
                problems.extend(error.problems, "file")
        sources.append((files, rule.max_samples))
    _refuse_empty(rules, sources, problems)
    problems.raise_if_any(recipe.path)
    # A window of each source and the one after it; windows end where blocks do.
    rows = Rows(sources, kept=2 * (data.shuffle_buffer + ROWS * len(sources)))
    weights = tuple(source.weight for source in data.sources)
    planner = Planner(
        processor=processor,
        checker=MediaChecker(decode=False, video_timeout_s=processor.video_timeout_s),
        rule=LengthRule(limit=data.sequence_length, policy=data.too_long),
        frame=data.grounding,
    )
    stream = Stream(
        rows=rows,
        rules=RowRules(sources=rules, planner=planner, processor=processor, loss_on=data.loss_on, frame=data.grounding),
        records=sum(map(sum, rows.block_rows)),
        weights=weights,
        shuffle_buffer=data.shuffle_buffer,
        fingerprint=_fingerprint(recipe, rules, sources, processor),
    )
    return stream, sources


def stream_items(stream: Stream, recipe: Recipe) -> ItemSource:
    """Give what training takes of a stream, in its order."""
    data, train = recipe.data, recipe.train
    assert train is not None, "only training streams"
    if not data.packing:
        return StreamItems(
            stream,
            train.seed,
            with_lengths=data.balance == "length",
            workers=data.workers,
            timeout_s=data.sample_timeout_s,
        )
    opener = WindowOpener(
        stream.rows,
        stream.rules,
        stream.order(train.seed),
        size=min(MOST_ROWS, data.shuffle_buffer),
        seed=train.seed,
        capacity=data.sequence_length,
        skips=data.on_bad_sample == "skip",
        workers=data.workers,
    )
    memory = PackMemory(Path(data.cache_dir) / f"packs-{stream.fingerprint}-{train.seed}.txt")
    return PackedStreamItems(stream, opener, memory, seed=train.seed, timeout_s=data.sample_timeout_s)


def _refuse_empty(rules: Sequence[SourceRules], sources: Sequence[Source], problems: ProblemList) -> None:
    for rule, (files, _) in zip(rules, sources, strict=True):
        if files and not any(block.rows for file in files for block in file.blocks):
            problems.add(Problem(where=str(rule.path), message="holds no record: 0 rows"), "file")


def _refuse_what_needs_all_records(recipe: Recipe) -> None:
    """Raise DataError for what takes all records to be known, or all of them to be tokenised, before the first step."""
    problems, validation = [], recipe.data.validation
    if validation is not None and validation.fraction is not None:
        message = f"is {validation.fraction}, but with data.streaming nobody knows which samples there are"
        fix = 'validation = { path = "data/val.jsonl" }'
        problems.append(Problem(where=recipe.path, key="data.validation.fraction", message=message, fix=fix))
    if recipe.train is not None and recipe.train.epochs is not None and recipe.data.packing:
        message = "counts epochs, but how many packs streamed data make is known only when all of it was tokenised"
        fix = "state train.steps instead, or set data.streaming = false"
        problems.append(Problem(where=recipe.path, key="train.epochs", message=message, fix=fix))
    if problems:
        raise DataError(problems)


def hash_of(sources: Sequence[Source]) -> str:
    """Give the hash of streamed data: sha256 over the files' bytes; media are not in it."""
    total = hashlib.sha256()
    for files, _ in sources:
        total.update(b"source\n")
        for file in files:
            total.update(f"{file.digest}\n".encode())
    return total.hexdigest()


def _fingerprint(recipe: Recipe, rules: Sequence[SourceRules], sources: Sequence[Source], processor: Processor) -> str:
    """Name what the packs of a stream depend on, apart from the seed and the media."""
    files = [(number, file.file.path) for number, (cuts, _) in enumerate(sources) for file in cuts]
    job = make_job(recipe, list(rules), files, processor, decode=False)
    digests = [file.digest for cuts, _ in sources for file in cuts]
    content = [
        survey_file(job, digests, Path()).stem,
        [source.weight for source in recipe.data.sources],
        recipe.data.shuffle_buffer,
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]
