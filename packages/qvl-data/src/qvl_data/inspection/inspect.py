"""Look at all data of a recipe as a run would, and report instead of stopping at what is wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qvl_core.cli.inputs import missing_inputs
from qvl_core.errors import DataError, InputError, Problem
from qvl_core.input_file import printable
from qvl_core.planner.kept_lengths import length_settings

from qvl_data.dataset import Dataset
from qvl_data.inspection.examples import example_samples
from qvl_data.inspection.figures import epoch_totals, length_totals, longest_samples, media_totals, token_totals
from qvl_data.inspection.histogram import length_histogram
from qvl_data.inspection.kinds import ProblemGroup, in_order
from qvl_data.inspection.measured import Measured, measure, too_long_group
from qvl_data.inspection.repeats import duplicate_group, leak_group
from qvl_data.inspection.report import CheckReport, SourceCount
from qvl_data.preparation import split
from qvl_data.processor import processor_of
from qvl_data.sample_figures import figures_of
from qvl_data.source_rules import rules_of
from qvl_data.streaming.prepare import open_stream
from qvl_data.survey.result import Progress

if TYPE_CHECKING:
    from qvl_core.recipe.schema import Recipe

EXAMPLES = 20
_LONGEST = 10
_LONGEST_PATH = 1000


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What a run trains on, and what it validates with."""

    train: Dataset
    validation: Dataset | None
    validation_from: str


def inspect_recipe(
    recipe: Recipe,
    *,
    decode: bool = False,
    shown: int = EXAMPLES,
    examples: bool = False,
    progress: Progress | None = None,
) -> CheckReport:
    """Give the report on a recipe's data, with the first `shown` problems of each kind.

    `decode` reads the pixels of images too; `examples` makes pictures of some samples, for a page. What is wrong with
    records and media is in the report; nothing is raised for it.
    """
    start = time.monotonic()
    if not recipe.data.sources:
        return failed_report(recipe.path, [_no_sources(recipe)])
    missing = missing_inputs(recipe)
    if any(problem.key.startswith("weights") for problem in missing):
        return failed_report(recipe.path, missing)
    try:
        processor = processor_of(recipe)
    except InputError as error:
        return failed_report(recipe.path, error.problems)
    rules = [rules_of(source) for source in recipe.data.sources]
    validation = recipe.data.validation
    if validation is not None and validation.path is not None:
        rules.append(rules_of(validation))
    measured = measure(recipe, rules, processor, decode=decode, shown=shown, progress=progress)
    groups = [*_groups_of(measured), too_long_group(recipe, measured, shown)]
    parts: _Parts | None = None
    try:
        parts = _split(recipe, measured)
    except DataError as error:
        groups.append(ProblemGroup(kind="recipe", count=len(error.problems), examples=error.problems))
    if parts is not None:
        groups.append(duplicate_group(parts.train, shown))
        if parts.validation is not None:
            groups.append(leak_group(parts.train, parts.validation, shown))
    return CheckReport(
        recipe=recipe.path,
        model=recipe.spec.name,
        sequence_length=recipe.data.sequence_length,
        too_long=recipe.data.too_long,
        packing=recipe.data.packing,
        decoded=decode,
        sources=tuple(_source_counts(recipe, measured)),
        groups=in_order(groups),
        media=media_totals(measured.found.media),
        lengths_depend_on=length_settings(recipe),
        **(_figures(recipe, measured, parts, examples=examples) if parts is not None else {}),  # type: ignore[arg-type]
        seconds=time.monotonic() - start,
    )


def failed_report(path: str, problems: Sequence[Problem]) -> CheckReport:
    """Give the report of a recipe whose data cannot be looked at: it cannot be loaded, or its weights cannot."""
    errors = tuple(problem for problem in problems if problem.severity == "error")
    return CheckReport(
        recipe=path,
        model="",
        sequence_length=0,
        too_long="",
        packing=False,
        decoded=False,
        seconds=0.0,
        groups=in_order([ProblemGroup(kind="recipe", count=len(errors), examples=errors)]),
    )


def _no_sources(recipe: Recipe) -> Problem:
    return Problem(where=recipe.path, key="data.sources", message="names no file of records")


def _groups_of(measured: Measured) -> Iterator[ProblemGroup]:
    """Give the problems that the pass found, by kind."""
    problems = measured.found.problems
    for kind, count in problems.kinds.items():
        kept = tuple(finding.problem for finding in problems.kept if finding.kind == kind)
        yield ProblemGroup(kind=kind, count=count, examples=kept)


def _split(recipe: Recipe, measured: Measured) -> _Parts | None:
    """Divide as a run does; None where wrong records have left nothing to divide, which is said already."""
    is_training = measured.usable.samples.source < len(recipe.data.sources)
    if not is_training.any() and (measured.found.problems.count or recipe.data.too_long == "error"):
        return None
    if recipe.data.streaming:
        # For what it refuses: lists of records that cannot be cut, settings that need all records at once.
        open_stream(recipe, measured.found.rules[: len(recipe.data.sources)], measured.every.processor)
    data = split(recipe, measured.usable, measured.every.processor)
    assert isinstance(data.train, Dataset), "a survey becomes an index"
    return _Parts(train=data.train, validation=data.validation, validation_from=data.report.validation_from)


def _source_counts(recipe: Recipe, measured: Measured) -> Iterator[SourceCount]:
    used, every = measured.usable.samples, measured.every.samples
    is_drop = recipe.data.too_long != "error"
    for number, (rule, counts) in enumerate(zip(measured.found.rules, measured.found.counts, strict=True)):
        usable = int((used.source == number).sum())
        dropped = int((every.source[measured.lost] == number).sum()) if is_drop else 0
        is_source = number < len(recipe.data.sources)
        yield SourceCount(
            path=printable(str(rule.path), _LONGEST_PATH),
            format=rule.format,
            weight=recipe.data.sources[number].weight if is_source else None,
            records=counts.read,
            usable=usable,
            dropped=dropped,
            shrunk=int((used.max_pixels[used.source == number] > 0).sum()),
            wrong=counts.read - usable - dropped,
        )


def _figures(recipe: Recipe, measured: Measured, parts: _Parts, *, examples: bool) -> dict[str, object]:
    train = parts.train
    lost = measured.lost[measured.every.samples.source[measured.lost] < len(recipe.data.sources)]
    return {
        "validation_samples": len(parts.validation) if parts.validation is not None else 0,
        "validation_from": parts.validation_from,
        "lengths": length_totals(train.lengths),
        "histogram": length_histogram(train.lengths, measured.every.samples.tokens[lost], recipe.data.sequence_length),
        "tokens": token_totals(train),
        "epoch": epoch_totals(train, recipe),
        "longest": longest_samples(train, _LONGEST),
        "figures": figures_of(train),
        "examples": example_samples(train, measured.every, lost) if examples else (),
    }
