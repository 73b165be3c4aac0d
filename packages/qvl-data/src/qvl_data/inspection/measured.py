"""The pass over all records, with the too long ones in it: a run only counts those, a report shows them.

The records are judged by the code of a run, but under no limit; then the recipe's limit is laid on the lengths. Where
samples are shrunk, a second pass under the limit says which and by how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from qvl_core.errors import Problem

from qvl_data.dataset import Dataset
from qvl_data.index import SampleTable
from qvl_data.inspection.kinds import ProblemGroup
from qvl_data.processor import Processor
from qvl_data.records.record_file import open_record_file
from qvl_data.source_rules import SourceRules
from qvl_data.survey.result import Progress, Survey
from qvl_data.survey.survey import survey

if TYPE_CHECKING:
    from qvl_core.recipe.schema import Recipe

_NO_LIMIT = 2**60


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """`every` has all records that can be measured, `usable` the samples of a run. `over` int64 are the rows of `every`
    above the limit; `lost` those of them that a run does not use; `shrunk` int64 [len(over)] the rows in `usable` of
    those that it shrinks, else -1."""

    every: Dataset
    found: Survey
    usable: Survey
    over: NDArray[np.int64]
    shrunk: NDArray[np.int64]

    @property
    def lost(self) -> NDArray[np.int64]:
        """Rows of `every` above the limit that stay out."""
        return self.over[self.shrunk < 0]


def measure(
    recipe: Recipe,
    rules: Sequence[SourceRules],
    processor: Processor,
    *,
    decode: bool,
    shown: int,
    progress: Progress | None,
) -> Measured:
    """Pass over all records. Wrong ones are problems of `found`; nothing is raised for them."""
    found = survey(_without_limit(recipe), rules, processor, decode=decode, progress=progress, shown=shown)
    limit = recipe.data.sequence_length
    over = np.flatnonzero(found.samples.tokens > limit)
    if len(over) and recipe.data.too_long == "shrink":
        usable = survey(recipe, rules, processor, decode=decode, progress=progress, shown=0)
        shrunk = _rows_in(usable.samples, found.samples, over)
    else:
        shrunk = np.full(len(over), -1, np.int64)
        usable = _without(found, over, limit) if len(over) else found
    return Measured(every=_everything(recipe, found, processor), found=found, usable=usable, over=over, shrunk=shrunk)


def _without(found: Survey, over: NDArray[np.int64], limit: int) -> Survey:
    """Give the survey as if the samples above the limit had been dropped."""
    dropped = np.bincount(found.samples.source[over], minlength=len(found.counts)).tolist()
    pairs = zip(found.counts, dropped, strict=True)
    counts = tuple(replace(counts, used=counts.used - lost, dropped=lost) for counts, lost in pairs)
    return replace(found, samples=only(found.samples, found.samples.tokens <= limit), counts=counts)


def only(samples: SampleTable, marks: NDArray[np.bool_]) -> SampleTable:
    """Give the marked samples of a table, bool [N]."""
    counts = samples.media_counts()
    columns = {
        name: getattr(samples, name)[marks]
        for name in SampleTable.__dataclass_fields__
        if name not in ("media_end", "media_numbers")
    }
    media_numbers = samples.media_numbers[np.repeat(marks, counts)]
    return SampleTable(**columns, media_end=np.cumsum(counts[marks]), media_numbers=media_numbers)


def too_long_group(recipe: Recipe, measured: Measured, shown: int) -> ProblemGroup:
    """Give the samples above the limit, with what becomes of each."""
    policy, limit = recipe.data.too_long, recipe.data.sequence_length
    is_error = policy == "error"
    fix = "raise data.sequence_length, lower max_pixels, or set data.too_long" if is_error else ""
    examples = []
    for row, shrunk in zip(measured.over[:shown].tolist(), measured.shrunk[:shown].tolist(), strict=True):
        samples = measured.every.samples
        tokens, text = int(samples.tokens[row]), int(samples.text_tokens[row])
        message = f"has {tokens:,} tokens ({text:,} text, {tokens - text:,} media); the limit is {limit:,}"
        if shrunk >= 0:
            usable = measured.usable.samples
            message += f": shrunk to max_pixels {usable.max_pixels[shrunk]:,}, {usable.tokens[shrunk]:,} tokens"
        elif not is_error:
            message += ", also with the smallest media: dropped" if policy == "shrink" else ": dropped"
        where = measured.every.where(row)
        severity = "error" if is_error else "warning"
        examples.append(
            Problem(where=where, key="data.sequence_length", message=message, fix=fix, severity=severity)  # type: ignore[arg-type]
        )
    return ProblemGroup(kind="too_long", count=len(measured.over), examples=tuple(examples), is_error=is_error)


def _without_limit(recipe: Recipe) -> Recipe:
    data = recipe.data.model_copy(update={"sequence_length": _NO_LIMIT, "too_long": "error"})
    return recipe.model_copy(update={"data": data})


def _rows_in(table: SampleTable, samples: SampleTable, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give the row of `table` that is the same record as each of `rows` of `samples`, -1 where there is none."""
    places = {pair: row for row, pair in enumerate(zip(table.file.tolist(), table.number.tolist(), strict=True))}
    wanted = zip(samples.file[rows].tolist(), samples.number[rows].tolist(), strict=True)
    return np.array([places.get(pair, -1) for pair in wanted], np.int64)


def _everything(recipe: Recipe, found: Survey, processor: Processor) -> Dataset:
    rows = np.arange(len(found.samples))
    return Dataset(
        samples=found.samples,
        media=found.media,
        files=tuple(open_record_file(path) for path in found.files),
        rules=found.rules,
        rows=rows,
        counts=(len(rows),),
        weights=(1.0,),
        processor=processor,
        loss_on=recipe.data.loss_on,
        frame=recipe.data.grounding,
    )
