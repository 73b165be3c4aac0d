"""Everything a run needs of its data, checked: `prepare` reads, checks, measures and splits before the first step."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from qvl_core.errors import DataError, Problem
from qvl_core.planner.kept_lengths import find_lengths

from qvl_data.data_report import DataReport
from qvl_data.dataset import Dataset
from qvl_data.media.memory import memory_file, remember
from qvl_data.order.sample_order import held_out
from qvl_data.processor import Processor, processor_of
from qvl_data.records.parquet import GroupCache
from qvl_data.records.problem_list import SHOWN
from qvl_data.records.record_file import open_record_file
from qvl_data.sample_figures import figures_of, keep_figures
from qvl_data.source_rules import SourceRules, rules_of
from qvl_data.streaming.prepare import hash_of, open_stream
from qvl_data.streaming.stream_items import Stream
from qvl_data.survey.job import make_job
from qvl_data.survey.result import Counts, Progress, Survey, total_of
from qvl_data.survey.saved import read_survey, save_survey, survey_file
from qvl_data.survey.survey import OpenedSources, survey

if TYPE_CHECKING:
    from qvl_core.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """The data of a run. `data_hash` is sha256 over the sources' bytes and the media's names and bytes.

    `files` are the sha256 of each file of records, by its path: what tells which of them is another one.
    """

    train: Dataset | Stream
    validation: Dataset | None
    report: DataReport
    data_hash: str
    processor: Processor
    files: Mapping[str, str] = field(default_factory=dict)


def prepare(recipe: Recipe, *, progress: Progress | None = None, is_checked: bool = False) -> PreparedData:
    """Read and check every record and every medium of a recipe, count tokens, and split off the validation samples.

    `is_checked`: another process of the same run has done so just now, and what it has kept is good, bad records and
    all. Raises DataError with everything that is wrong with the data at once (20 shown, all counted), WeightsError if
    the tokenizer or image processor of `weights.source` cannot be used.
    """
    if not recipe.data.sources:
        raise DataError(Problem(where=recipe.path, key="data.sources", message="names no file of records"))
    processor = processor_of(recipe)
    rules = [rules_of(source) for source in recipe.data.sources]
    validation = recipe.data.validation
    if validation is not None and validation.path is not None:
        rules.append(rules_of(validation))
    if recipe.data.streaming:
        return _prepare_stream(recipe, rules, processor, progress, is_checked=is_checked)
    sources = OpenedSources(rules)
    found = survey_once(recipe, rules, processor, progress=progress, is_checked=is_checked, sources=sources)
    data = split(recipe, found, processor)
    if not is_checked and isinstance(data.train, Dataset) and find_lengths(recipe).values is None:
        keep_figures(recipe, figures_of(data.train))
    return replace(data, files=sources.digest_by_path())


def _prepare_stream(
    recipe: Recipe,
    rules: Sequence[SourceRules],
    processor: Processor,
    progress: Progress | None,
    *,
    is_checked: bool,
) -> PreparedData:
    """Cut the training files into blocks, which is all that is looked at, and survey the validation file as ever."""
    sources = len(recipe.data.sources)
    stream, cut_files = open_stream(recipe, rules[:sources], processor, progress=progress)
    data_hash, held = hash_of(cut_files), None
    digests = {str(file.file.path): file.digest for files, _ in cut_files for file in files}
    if rules[sources:]:
        own = OpenedSources(rules[sources:])
        found = survey_once(recipe, rules[sources:], processor, progress=progress, is_checked=is_checked, sources=own)
        digests |= own.digest_by_path()
        rows = np.arange(len(found.samples))
        _refuse_nothing_left([rows], found.counts[-1], recipe, key="data.validation.path")
        held = _dataset(found, [rows], (1.0,), recipe, processor)
        _refuse_large_validation(recipe, stream.records, len(held))
        data_hash = hashlib.sha256(f"{data_hash} {found.data_hash}".encode()).hexdigest()
    report = DataReport(
        records=stream.records,
        train_samples=stream.records,
        validation_samples=len(held) if held is not None else 0,
        validation_from=_validation_from(recipe),
        dropped=0,
        shrunk=0,
        images=0,
        videos=0,
        tokens=0,
        longest=0,
        epoch_length=stream.order(0).epoch_length,
        notes=(),
        is_streamed=True,
    )
    return PreparedData(
        train=stream, validation=held, report=report, data_hash=data_hash, processor=processor, files=digests
    )


def survey_once(
    recipe: Recipe,
    rules: Sequence[SourceRules],
    processor: Processor,
    *,
    progress: Progress | None,
    sources: OpenedSources,
    is_checked: bool = False,
) -> Survey:
    """Give the survey of an earlier run where nothing has changed, else make and keep one. Raises DataError.

    `sources` are those of the rules, opened.

    A survey that found something wrong is good for the processes of one run: before the next, it may have been mended.
    """
    cache_dir, decode = Path(recipe.data.cache_dir), recipe.data.media_check == "decode"
    files = [(source, file.path) for source, file in sources.files]
    kept = survey_file(make_job(recipe, list(rules), files, processor, decode=decode), sources.digests, cache_dir)
    found = read_survey(kept, rules, decode=decode) if files else None
    if found is None or (found.problems.count and not is_checked):
        found = survey(recipe, rules, processor, decode=decode, progress=progress, sources=sources)
        _refuse_problems(recipe, found)
        remember(memory_file(cache_dir, [rule.media_root for rule in rules]), found.media.files(), decoded=decode)
        save_survey(kept, found)
    return found


def _refuse_problems(recipe: Recipe, found: Survey) -> None:
    """Raise DataError for what is wrong, except for bad samples that the recipe says to skip."""
    problems = found.problems
    whole = problems.kinds["file"] + problems.kinds["too_long"]
    bad, limit = total_of(found.counts).wrong, recipe.data.max_bad_samples
    if recipe.data.on_bad_sample == "stop" or whole:
        problems.raise_if_any(recipe.path)
    if bad > limit:
        error = problems.error(recipe.path)
        message = f"{bad:,} bad records; on_bad_sample skips at most {limit:,}"
        raise DataError([*error.problems, Problem(where=recipe.path, key="data.max_bad_samples", message=message)])


def split(recipe: Recipe, found: Survey, processor: Processor) -> PreparedData:
    """Divide the samples of a survey into those to train on and those to validate with. Raises DataError."""
    sources = len(recipe.data.sources)
    own_file = len(found.rules) > sources
    rows = [np.flatnonzero(found.samples.source == number) for number in range(len(found.rules))]
    _refuse_nothing_left(rows[:sources], total_of(found.counts[:sources]), recipe)
    weights = tuple(source.weight for source in recipe.data.sources)
    kept, held = _held_out(rows[:sources], recipe)
    train = _dataset(found, kept, weights, recipe, processor)
    validation = _dataset(found, held, weights, recipe, processor) if held is not None else None
    if own_file:
        _refuse_nothing_left([rows[-1]], found.counts[-1], recipe, key="data.validation.path")
        validation = _dataset(found, [rows[-1]], (1.0,), recipe, processor)
        _refuse_large_validation(recipe, len(train), len(validation))
    return PreparedData(
        train=train,
        validation=validation,
        report=_report(recipe, found, train, validation),
        data_hash=found.data_hash,
        processor=processor,
    )


def _refuse_nothing_left(rows: Sequence[NDArray[np.int64]], counts: Counts, recipe: Recipe, *, key: str = "") -> None:
    """Raise DataError if no sample is left; `key` names a file among others."""
    if any(len(part) for part in rows):
        return
    of_file = f" of {key}" if key else ""
    if not counts.dropped:
        message = f"no record{of_file} can be used: {counts.wrong:,} are bad and left out"
        fix = "qvl data check RECIPE lists what is wrong"
        raise DataError(Problem(where=recipe.path, key=key or "data.sources", message=message, fix=fix))
    limit = f"longer than {recipe.data.sequence_length:,} tokens"
    some = f"all samples{of_file}" if key else f"all {counts.dropped:,} samples"
    bad = f"; {counts.wrong:,} others are bad and left out" if counts.wrong else ""
    message = f"{some} are {limit} and were dropped{bad}"
    fix = 'raise data.sequence_length, or set data.too_long = "shrink"'
    raise DataError(Problem(where=recipe.path, key="data.sequence_length", message=message, fix=fix))


def _refuse_large_validation(recipe: Recipe, trained: int, held: int) -> None:
    """Raise DataError where a file of held-out samples has more than there are to train on: files that were swapped."""
    validation = recipe.data.validation
    if validation is None or held <= trained:
        return
    message = f"{validation.path} has {held:,} samples, more than the {trained:,} to train on"
    fix = "name the larger file in data.sources, or leave only its first records in the validation file"
    raise DataError(Problem(where=recipe.path, key="data.validation.path", message=message, fix=fix))


def _held_out(
    rows: Sequence[NDArray[np.int64]], recipe: Recipe
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]] | None]:
    """Give the rows to train on and the rows held out, by source."""
    validation = recipe.data.validation
    fraction = validation.fraction if validation is not None else None
    if fraction is None:
        return list(rows), None
    total = sum(len(part) for part in rows)
    marks = held_out(total, fraction, recipe.train.seed if recipe.train is not None else 0)
    if marks.all():
        message = f"holds out {int(marks.sum()):,} of {total:,} samples: none is left to train on"
        raise DataError(Problem(where=recipe.path, key="data.validation.fraction", message=message))
    parts = np.split(marks, np.cumsum([len(part) for part in rows])[:-1])
    pairs = list(zip(rows, parts, strict=True))
    return [part[~held] for part, held in pairs], [part[held] for part, held in pairs]


def _dataset(
    found: Survey, rows: Sequence[NDArray[np.int64]], weights: tuple[float, ...], recipe: Recipe, processor: Processor
) -> Dataset:
    cache = GroupCache()
    return Dataset(
        samples=found.samples,
        media=found.media,
        files=tuple(open_record_file(path, cache) for path in found.files),
        rules=found.rules,
        rows=np.concatenate(list(rows)),
        counts=tuple(len(part) for part in rows),
        weights=weights,
        processor=processor,
        loss_on=recipe.data.loss_on,
        frame=recipe.data.grounding,
    )


def _report(recipe: Recipe, found: Survey, train: Dataset, held: Dataset | None) -> DataReport:
    total = total_of(found.counts)
    paths = {(kind, path) for kind, path in zip(found.media.is_video().tolist(), found.media.path, strict=True)}
    return DataReport(
        records=total.read,
        train_samples=len(train),
        validation_samples=len(held) if held is not None else 0,
        validation_from=_validation_from(recipe),
        dropped=total.dropped,
        shrunk=total.shrunk,
        images=sum(not is_video for is_video, _ in paths),
        videos=sum(is_video for is_video, _ in paths),
        tokens=int(train.lengths.sum()),
        longest=int(train.lengths.max(initial=0)),
        pack_tokens=recipe.data.sequence_length if recipe.data.packing else 0,
        epoch_length=train.epoch_length(recipe.data.sequence_length if recipe.data.packing else None),
        notes=found.notes,
        bad=total.wrong,
        bad_examples=tuple(finding.problem for finding in found.problems.kept[:SHOWN]),
    )


def _validation_from(recipe: Recipe) -> str:
    validation, train = recipe.data.validation, recipe.train
    if validation is None:
        return ""
    if validation.fraction is None:
        return f"from {validation.path}"
    return f"{validation.fraction:.3g} of all, drawn with seed {train.seed if train is not None else 0}"
